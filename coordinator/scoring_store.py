"""What the gateway must still know after kill -9: survivor sets before shares are asked for, answers before they leave.

One SQLite file. Without the first a restarted gateway would ask nodes to break a lock (C2), without the second it would
spend their budgets again. Beside them grows the log of openings, which is never changed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from coordinator.scoring_answers import Opened, Released
from policies.disclosure import FIRST, hash_of, peek_disclosure, sign_disclosure
from policies.errors import UserError
from policies.grants import Grant
from policies.key_files import make_private_folder
from protos.masked_sum.request import Request
from protos.scoring.v1 import scoring_pb2 as pb
from protos.sealed_sum.keys import SigningKey

FILE_NAME = "scoring.sqlite"
_SCHEMA = """
create table if not exists openings (
    id integer primary key,
    request_digest blob not null,
    task text not null,
    model_version text not null,
    time_window integer not null,
    tokens blob not null,
    survivors text not null,
    issuer blob not null,
    reach blob not null,
    one_member integer not null,
    locked_until real not null,
    kept_until real not null,
    outcomes blob,                 -- null: shares were asked for, and nothing came of it
    totals blob,
    disclosure blob
) strict;
create table if not exists disclosures (number integer primary key, signed blob not null) strict;
create trigger if not exists disclosures_stay before delete on disclosures
begin select raise(abort, 'the log of openings is append-only'); end;
create trigger if not exists disclosures_do_not_change before update on disclosures
begin select raise(abort, 'the log of openings is append-only'); end;
"""


@dataclass(frozen=True)
class Terms:
    """What must stay the same for an answer to be given again.

    Attributes:
        issuer: Who signed the grant, 32 bytes.
        reach: `Grant.reach`, whose sum it is; empty if a release wrote it down that knew none, and then no grant's.
        one_member: Whether a total over one knowing member was let out (C6).
    """

    issuer: bytes
    reach: bytes
    one_member: bool

    @classmethod
    def of(cls, grant: Grant) -> Self:
        """Terms of a grant."""
        return cls(grant.issuer, grant.reach, grant.one_role_may_answer)


@dataclass(frozen=True)
class Kept:
    """An opening of before.

    Attributes:
        task: Of the request.
        model_version: Of the request.
        window: Of the request.
        tokens: Its entities, joined.
        survivors: Whose sum it was.
        terms: Of the grant it was opened under.
        locked_until_s: Until when these are the only survivors for its entities.
        opened: What was released; None if nothing was opened after shares were asked for.
    """

    task: str
    model_version: str
    window: int
    tokens: bytes = field(repr=False)
    survivors: tuple[str, ...]
    terms: Terms
    locked_until_s: float
    opened: Opened | None


class AnswerStore:
    """Survivor sets, answers and the log of openings; used from one thread, `checkpoint` from any.

    A write survives the death of the process at once, a power cut up to the last checkpoint (SQLite's write-ahead log,
    `synchronous = normal`): then the nodes refuse what the gateway has forgotten, which costs answers and no secret.

    Args:
        state_dir: Made when needed, mode 0700.
        identity: The coordinator's, signs the log.
    """

    def __init__(self, state_dir: Path, identity: SigningKey) -> None:
        make_private_folder(state_dir)
        self._path = state_dir / FILE_NAME
        self._identity = identity
        self._db = self._connect()
        try:
            self._db.executescript(_SCHEMA)
            self._add_columns()
            row = self._db.execute("select number, signed from disclosures order by number desc limit 1").fetchone()
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self._path}: expected the scoring gateway's own file, found something else ({error}); move it away."
            ) from error
        self._path.chmod(0o600)
        self._last, self._previous = (0, FIRST) if row is None else (int(row[0]), hash_of(row[1]))

    def lock(
        self,
        request: Request,
        survivors: tuple[str, ...],
        terms: Terms,
        *,
        locked_until_s: float,
        kept_until_s: float,
    ) -> int:
        """Write down whose sum a request is going to be, before any share is asked for.

        Args:
            request: What is asked.
            survivors: Whose sum it is going to be.
            terms: Of the grant that asks.
            locked_until_s: Until when these are the only survivors for its entities, Unix seconds.
            kept_until_s: When `forget` may drop the opening.

        Returns:
            The opening's number, for `opened`.
        """
        with self._db:
            cursor = self._db.execute(
                "insert into openings (request_digest, task, model_version, time_window, tokens, survivors, issuer, "
                "reach, one_member, locked_until, kept_until) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    request.digest,
                    request.task,
                    request.model_version,
                    request.window,
                    request.entities,
                    ",".join(survivors),
                    terms.issuer,
                    terms.reach,
                    int(terms.one_member),
                    locked_until_s,
                    kept_until_s,
                ),
            )
        return int(cursor.lastrowid or 0)

    def opened(
        self, opening: int, request: Request, survivors: tuple[str, ...], released: Released, at_s: float
    ) -> Opened:
        """Write down what was opened, and the log's entry about it, before the answer leaves.

        Args:
            opening: As `lock` gave it.
            request: What was asked.
            survivors: Whose sum it is.
            released: What the platform may keep.
            at_s: Unix seconds.
        """
        signed = sign_disclosure(
            self._identity,
            pb.Disclosure(
                request_digest=request.digest,
                survivors=survivors,
                absent=[member for member in request.roster if member not in survivors],
                at_ms=int(at_s * 1000),
                task=request.task,
                model_version=request.model_version,
                purpose=request.purpose,
                requester=request.requester,
                window=request.window,
                num_entities=request.num_entities,
                answers_digest=released.digest,
                number=self._last + 1,
                previous=self._previous,
            ),
        )
        with self._db:
            self._db.execute(
                "update openings set outcomes = ?, totals = ?, disclosure = ? where id = ?",
                (released.outcomes.tobytes(), released.totals.astype("<i8").tobytes(), signed, opening),
            )
            self._db.execute("insert into disclosures values (?, ?)", (self._last + 1, signed))
        self._last, self._previous = self._last + 1, hash_of(signed)
        return Opened(released, survivors, request.digest, signed)

    def kept(self) -> Iterator[Kept]:
        """Every opening that was not forgotten, oldest first."""
        for row in self._db.execute(
            "select task, model_version, time_window, tokens, survivors, issuer, reach, one_member, locked_until, "
            "outcomes, totals, disclosure from openings order by id"
        ):
            task, version, window, tokens, survivors, issuer, reach, one_member, until, *found_then = row
            outcomes, totals, disclosure = found_then
            members, terms = tuple(survivors.split(",")), Terms(issuer, reach, bool(one_member))
            opened = None
            if outcomes is not None:
                found = np.frombuffer(outcomes, dtype=np.uint8)
                released = Released(found, np.frombuffer(totals, dtype="<i8").reshape(len(found), -1))
                opened = Opened(released, members, peek_disclosure(disclosure).request_digest, disclosure)
            yield Kept(task, version, window, tokens, members, terms, until, opened)

    def forget(self, now_s: float) -> None:
        """Drop openings that need be kept no longer."""
        with self._db:
            self._db.execute("delete from openings where kept_until < ?", (now_s,))

    def disclosures(self, after: int = 0) -> list[bytes]:
        """The log's entries after a number, signed."""
        rows = self._db.execute("select signed from disclosures where number > ? order by number", (after,))
        return [signed for (signed,) in rows]

    @property
    def last_disclosure(self) -> int:
        """Number of the log's last entry."""
        return self._last

    def checkpoint(self) -> None:
        """Have the write-ahead log on the disk and taken over; takes its time, and a connection of its own."""
        db = self._connect()
        try:
            db.execute("pragma wal_checkpoint(passive)")
        finally:
            db.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _add_columns(self) -> None:
        """Files of releases before grants' reach was locked: what they hold has no reach, so no grant gets it again."""
        columns = {row[1] for row in self._db.execute("pragma table_info(openings)")}
        with self._db:
            if "reach" not in columns:
                self._db.execute("alter table openings add column reach blob not null default x''")
            if "one_member" not in columns:
                self._db.execute("alter table openings add column one_member integer not null default 1")

    def _connect(self) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(self._path, timeout=5.0)
            db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = normal")
            db.execute("pragma wal_autocheckpoint = 0")  # fsync would wait in the thread that answers
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self._path}: expected the scoring gateway's own file, found something else ({error}); move it away."
            ) from error
        return db

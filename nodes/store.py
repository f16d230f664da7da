"""What a node must still know after kill -9: one SQLite file in a folder of mode 0700.

Everything that a peer could use against this member if it were forgotten is committed *before* the message
that depends on it leaves (rules A6, A8 and E4): the own contribution of a sum, which seeds and shares were
given, which survivor set was opened for an input class. The file holds secrets of the running key epochs;
they are deleted when the run ends (rule A10).

A copy restored from a backup could answer twice, so the file knows how old it is (`nodes.state_age`): every epoch
that an older copy still holds open is refused (DESIGN section 9). Deleted keys are overwritten, not only forgotten.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from nodes.state_age import StateAge
from policies.errors import UserError

SCHEMA_VERSION: Final = 1
_SCHEMA = """
create table if not exists meta (key text primary key, value text not null) strict;
create table if not exists runs (
    run_id text primary key,
    proposal blob not null,
    phase text not null check (phase in ('announced', 'joined', 'keyed', 'ready', 'ended')),
    state blob not null,
    announcement blob not null,
    joined blob not null default x'',
    attempt integer not null default -1,
    deals blob not null default x'',
    confirmation blob not null default x'',
    next_k integer not null default 0,
    previous blob not null default x'',
    memory blob not null default x'',
    end_reason text not null default ''
) strict;
-- Large values have rows of their own: SQLite rewrites a whole row on every update.
create table if not exists blobs (
    run_id text not null references runs (run_id) on delete cascade,
    kind text not null check (kind in ('upload', 'snapshot', 'model')),
    data blob not null,
    primary key (run_id, kind)
) strict;
create table if not exists opened (
    run_id text not null references runs (run_id) on delete cascade,
    k integer not null,
    class_key text not null,
    survivors text not null,
    chain blob not null,
    purpose text not null,
    input_class text not null,
    statistics text not null,
    primary key (run_id, k)
) strict;
-- Intersections with other members: small states, what they need for matching, and the order that came of it.
create table if not exists alignments (
    run_id text not null references runs (run_id) on delete cascade,
    label_holder text not null,
    feature_holder text not null,
    side blob not null,
    exchange integer not null,
    rows blob not null default x'',
    primary key (run_id, label_holder, feature_holder)
) strict;
create table if not exists alignment_parts (
    run_id text not null,
    label_holder text not null,
    feature_holder text not null,
    kind text not null check (kind in ('own', 'peer', 'reply')),
    number integer not null,
    data blob not null,
    primary key (run_id, label_holder, feature_holder, kind, number),
    foreign key (run_id, label_holder, feature_holder) references alignments on delete cascade
) strict;
-- What one label holder's rows were asked in vertical runs; it outlives the runs (rules B4 and B5).
create table if not exists label_queries (
    task text not null,
    alignment blob not null,
    asked integer not null,
    passes integer not null,
    primary key (task, alignment)
) strict;
-- The consortium's ledger as this node has seen it, every checkpoint that it has co-signed.
create table if not exists witnessed (
    origin text not null,
    size integer not null,
    root blob not null,
    note blob not null,
    at text not null,
    primary key (origin, size)
) strict;
-- `fork`: a second note for a size in `witnessed`; `unsure`: this file is a copy, so there may be later checkpoints.
create table if not exists ledgers (
    origin text primary key,
    fork blob not null default x'',
    unsure integer not null default 0
) strict;
create table if not exists journal (
    entry integer primary key autoincrement,
    at text not null,
    run_id text not null,
    event text not null,
    details text not null
) strict;
"""

_COUNT_COMMIT: Final = (
    "insert into meta values ('commits', '1') "
    "on conflict (key) do update set value = cast(cast(value as integer) + 1 as text) returning value"
)


class NodeStateRefused(UserError):
    """The node's state file cannot be used as it is."""


@dataclass(frozen=True)
class RunRecord:
    """One run as this node last committed it."""

    run_id: str
    proposal: bytes
    phase: str
    state: bytes
    announcement: bytes
    joined: bytes
    attempt: int
    deals: dict[str, bytes]
    confirmation: bytes
    next_k: int
    previous: bytes
    memory: bytes
    end_reason: str


@dataclass(frozen=True)
class OpenedRecord:
    """What is remembered of an opened sum: never its values, but what binds and describes it."""

    k: int
    class_key: str
    survivors: tuple[str, ...]
    chain: bytes
    purpose: str
    input_class: str
    statistics: dict[str, float | list[float]]


def _names(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text)) if text else ()


class NodeStore:
    """The node's durable state. Safe to use from several threads; every write is one transaction.

    Args:
        state_dir: Folder of mode 0700, made when needed.
        survives_power_cut: Whether a commit waits for the disk. False is for simulations in one process: a commit
            then survives the process but not the machine, which no deployment may accept.
    """

    def __init__(self, state_dir: Path, *, survives_power_cut: bool = True) -> None:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        state_dir.chmod(0o700)
        self._path = state_dir / "node.sqlite"
        self._lock = threading.RLock()
        created = not self._path.exists()
        if created:
            os.close(os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600))
        try:
            self._db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
            self._db.execute("pragma journal_mode = wal")
            self._db.execute(f"pragma synchronous = {'full' if survives_power_cut else 'off'}")
            self._db.execute("pragma foreign_keys = on")
            # Pages that held a key are overwritten with zeros when they are freed (rule A10).
            self._db.execute("pragma secure_delete = on")
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise NodeStateRefused(
                f"Expected this node's state in {self._path}, found a file that SQLite cannot read ({error}); "
                "move it away to start with an empty state: runs in progress are then lost to this node."
            ) from None
        self._age = StateAge(state_dir)
        self._check_version()
        self._refuse_an_older_copy()

    def close(self) -> None:
        """Close the file; a later call on this object fails."""
        with self._lock:
            self._db.close()
            self._age.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("begin immediate")
            try:
                yield self._db
                (commits,) = self._db.execute(_COUNT_COMMIT).fetchone()
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")
            self._age.record(int(commits))

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction, for the tables of a protocol that has a store of its own beside this one."""
        with self._transaction() as db:
            yield db

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for reading those tables."""
        with self._lock:
            yield self._db

    def _check_version(self) -> None:
        row = self._db.execute("select value from meta where key = 'schema'").fetchone()
        if row is None:
            with self._transaction() as db:
                db.execute("insert into meta values ('schema', ?)", (str(SCHEMA_VERSION),))
                # An empty state goes on counting: what came before it is older still.
                db.execute("insert into meta values ('commits', ?)", (str(self._age.commits()),))
        elif row[0] != str(SCHEMA_VERSION):
            raise NodeStateRefused(
                f"{self._path} has state version {row[0]}, this release reads version {SCHEMA_VERSION}; "
                "run the release that wrote it, or start with an empty state folder."
            )

    def _refuse_an_older_copy(self) -> None:
        stored = dict(self._db.execute("select key, value from meta where key in ('origin', 'commits')").fetchall())
        here, counted = self._age.origin(), int(stored.get("commits", 0))
        copied = stored.get("origin", here) != here or counted < self._age.commits()
        with self._transaction() as db:
            db.execute("insert or replace into meta values ('origin', ?)", (here,))
            if copied:
                newest = str(max(counted, self._age.commits()))
                db.execute("insert or replace into meta values ('commits', ?)", (newest,))
                db.execute(
                    "update runs set phase = 'ended', state = x'', joined = x'', deals = x'', memory = x'', "
                    "end_reason = 'the state was restored from a copy, which may have answered already' "
                    "where phase <> 'ended'"
                )
                db.execute("delete from blobs where kind <> 'model'")
                db.execute("delete from alignments")
                db.execute("update ledgers set unsure = 1")
        if copied:
            self._forget_what_was_deleted()

    def _forget_what_was_deleted(self) -> None:
        """Empty the write-ahead log, which still holds earlier pages; not while another process reads it."""
        self._db.execute("pragma wal_checkpoint(truncate)")

    # -- runs -----------------------------------------------------------------------------------------

    def run(self, run_id: str) -> RunRecord | None:
        """The run as last committed, or None."""
        with self._lock:
            row = self._db.execute(
                "select run_id, proposal, phase, state, announcement, joined, attempt, deals, confirmation, "
                "next_k, previous, memory, end_reason from runs where run_id = ?",
                (run_id,),
            ).fetchone()
        if row is None:
            return None
        run, proposal, phase, state, announcement, joined, attempt, deals, confirmation, next_k, *rest = row
        return RunRecord(
            run,
            proposal,
            phase,
            state,
            announcement,
            joined,
            attempt,
            {name: bytes.fromhex(text) for name, text in json.loads(deals or b"{}").items()},
            confirmation,
            next_k,
            *rest,
        )

    def runs(self) -> list[tuple[str, str, int, str]]:
        """(run id, phase, sums opened, end reason) of every run, oldest first."""
        with self._lock:
            return self._db.execute("select run_id, phase, next_k, end_reason from runs order by rowid").fetchall()

    def add_run(self, run_id: str, proposal: bytes, state: bytes, announcement: bytes) -> None:
        """Record a run at its first message (phase `announced`), before the message leaves."""
        with self._transaction() as db:
            db.execute(
                "insert into runs (run_id, proposal, phase, state, announcement) values (?, ?, 'announced', ?, ?)",
                (run_id, proposal, state, announcement),
            )

    def set_joined(self, run_id: str, joined: bytes) -> None:
        """The cohort of the key epoch is known and checked."""
        with self._transaction() as db:
            db.execute("update runs set phase = 'joined', joined = ? where run_id = ?", (joined, run_id))

    def set_keyed(
        self, run_id: str, state: bytes, *, attempt: int, deals: dict[str, bytes], confirmation: bytes
    ) -> None:
        """The sealing key is here; what was dealt and confirmed is final for this attempt."""
        stored = json.dumps({name: deal.hex() for name, deal in deals.items()}).encode()
        with self._transaction() as db:
            db.execute(
                "update runs set phase = 'keyed', state = ?, attempt = ?, deals = ?, confirmation = ? where run_id = ?",
                (state, attempt, stored, confirmation, run_id),
            )

    def set_ready(self, run_id: str, state: bytes) -> None:
        """All members confirmed one key: sums may begin."""
        with self._transaction() as db:
            db.execute(
                "update runs set phase = 'ready', state = ?, joined = x'', deals = x'' where run_id = ?",
                (state, run_id),
            )

    def end_run(self, run_id: str, reason: str) -> None:
        """End a run and delete its keys, contributions and intermediate models (rule A10)."""
        with self._transaction() as db:
            db.execute(
                "update runs set phase = 'ended', state = x'', joined = x'', deals = x'', memory = x'', "
                "end_reason = ? "
                "where run_id = ?",
                (reason, run_id),
            )
            db.execute("delete from blobs where run_id = ? and kind <> 'model'", (run_id,))
            db.execute("delete from alignments where run_id = ?", (run_id,))
        with self._lock:
            self._forget_what_was_deleted()

    # -- sums -----------------------------------------------------------------------------------------

    def save_upload(self, run_id: str, memory: bytes, upload: bytes) -> None:
        """Commit a contribution before it is sent: after a crash the same bytes go out again (rule A8)."""
        with self._transaction() as db:
            db.execute("update runs set memory = ? where run_id = ?", (memory, run_id))
            db.execute("insert or replace into blobs values (?, 'upload', ?)", (run_id, upload))

    def blob(self, run_id: str, kind: Literal["upload", "snapshot", "model"]) -> bytes:
        """The current contribution, training state or finished model; empty when there is none."""
        with self._lock:
            row = self._db.execute("select data from blobs where run_id = ? and kind = ?", (run_id, kind)).fetchone()
        return b"" if row is None else bytes(row[0])

    def save_memory(self, run_id: str, memory: bytes) -> None:
        """Commit what was answered, before the answer leaves: it is final (rule A6)."""
        with self._transaction() as db:
            db.execute("update runs set memory = ? where run_id = ?", (memory, run_id))

    def save_model(self, run_id: str, artefact: bytes) -> None:
        """Keep the finished model; it stays when the run's keys are deleted (rule A14)."""
        with self._transaction() as db:
            db.execute("insert or replace into blobs values (?, 'model', ?)", (run_id, artefact))

    def commit_opening(self, run_id: str, opening: OpenedRecord, memory: bytes, snapshot: bytes) -> None:
        """Commit an opened sum with the model that follows from it: the node's checkpoint of the round."""
        with self._transaction() as db:
            db.execute(
                "insert into opened (run_id, k, class_key, survivors, chain, purpose, input_class, statistics) "
                "values (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    run_id,
                    opening.k,
                    opening.class_key,
                    json.dumps(opening.survivors),
                    opening.chain,
                    opening.purpose,
                    opening.input_class,
                    json.dumps(opening.statistics),
                ),
            )
            db.execute(
                "update runs set next_k = ?, previous = ?, memory = ? where run_id = ?",
                (opening.k + 1, opening.chain, memory, run_id),
            )
            db.execute("delete from blobs where run_id = ? and kind = 'upload'", (run_id,))
            db.execute("insert or replace into blobs values (?, 'snapshot', ?)", (run_id, snapshot))

    def openings(self, run_id: str) -> list[OpenedRecord]:
        """Every opened sum of the run, ascending."""
        with self._lock:
            rows = self._db.execute(
                "select k, class_key, survivors, chain, purpose, input_class, statistics from opened "
                "where run_id = ? order by k",
                (run_id,),
            ).fetchall()
        return [
            OpenedRecord(k, key, _names(names), chain, purpose, input_class, json.loads(statistics))
            for k, key, names, chain, purpose, input_class, statistics in rows
        ]

    # -- labels --

    def label_queries(self, task: str, alignment: bytes) -> tuple[int, int]:
        """(columns asked, passes begun) about these rows' labels, over all vertical runs."""
        with self._lock:
            row = self._db.execute(
                "select asked, passes from label_queries where task = ? and alignment = ?", (task, alignment)
            ).fetchone()
        return (0, 0) if row is None else (int(row[0]), int(row[1]))

    def save_label_queries(self, task: str, alignment: bytes, *, asked: int, passes: int) -> None:
        """Commit what the labels were asked, before the answer leaves."""
        with self._transaction() as db:
            db.execute("insert or replace into label_queries values (?, ?, ?, ?)", (task, alignment, asked, passes))

    # -- journal --------------------------------------------------------------------------------------

    def journal(self, at: str, run_id: str, event: str, **details: str | int | list[str]) -> None:
        """Append to the node's own record of what it disclosed, refused or found odd."""
        with self._transaction() as db:
            db.execute(
                "insert into journal (at, run_id, event, details) values (?, ?, ?, ?)",
                (at, run_id, event, json.dumps(details, sort_keys=True)),
            )

    def journal_entries(self, run_id: str | None = None) -> list[tuple[str, str, str, dict[str, object]]]:
        """(time, run id, event, details), oldest first."""
        with self._lock:
            rows = self._db.execute(
                "select at, run_id, event, details from journal where ? is null or run_id = ? order by entry",
                (run_id, run_id),
            ).fetchall()
        return [(at, run, event, json.loads(details)) for at, run, event, details in rows]

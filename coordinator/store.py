"""The coordinator's checkpoints: one SQLite file from which a run continues after kill -9.

It holds proposals, signed protocol messages and sealed sums: ciphertexts and masked values, never an opened
sum, a key or a row. A survivor set is committed before it is announced, because asking for a second one
would be refused by every honest node (rule A6) and would end the run.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from policies.errors import UserError

SCHEMA_VERSION: Final = 1
RunStatus = Literal["queued", "running", "paused", "finished", "failed"]
_SCHEMA = """
create table if not exists meta (key text primary key, value text not null) strict;
create table if not exists runs (
    run_id text primary key,
    request blob not null,
    status text not null,
    proposal blob not null default x'',
    members text not null default '',
    announcements text not null default '',
    confirmations text not null default '',
    reason text not null default '',
    told text not null default '',
    end_known integer not null default 0
) strict;
create table if not exists sums (
    run_id text not null references runs (run_id) on delete cascade,
    k integer not null,
    purpose text not null default '',
    survivors text not null default '',
    sealed_sum blob not null default x'',
    primary key (run_id, k)
) strict;
create table if not exists events (
    entry integer primary key autoincrement,
    at text not null,
    run_id text not null,
    event text not null,
    details text not null
) strict;
"""


class CoordinatorStateRefused(UserError):
    """The coordinator's state file cannot be used as it is."""


@dataclass(frozen=True)
class StoredRun:
    """A run as last committed."""

    run_id: str
    request: bytes
    status: str
    proposal: bytes
    announcements: tuple[bytes, ...]
    confirmations: tuple[bytes, ...]
    reason: str
    told: tuple[str, ...]
    """Members that know that the run is over."""


@dataclass(frozen=True)
class StoredSum:
    """One sum as last committed: `sealed_sum` is empty while it is not finished."""

    k: int
    purpose: str
    survivors: tuple[str, ...]
    sealed_sum: bytes


@dataclass(frozen=True)
class Event:
    """One line of a run's public progress."""

    entry: int
    at: str
    run_id: str
    event: str
    details: dict[str, object]


def _dump(messages: tuple[bytes, ...]) -> str:
    return json.dumps([message.hex() for message in messages])


def _load(text: str) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(message) for message in json.loads(text)) if text else ()


def _names(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text)) if text else ()


def _insert_event(db: sqlite3.Connection, at: str, run_id: str, event: str, details: Mapping[str, object]) -> None:
    db.execute(
        "insert into events (at, run_id, event, details) values (?, ?, ?, ?)",
        (at, run_id, event, json.dumps(details, sort_keys=True)),
    )


class CoordinatorStore:
    """Durable state of the coordinator, shared by its driver and by `tallystick train` in another process.

    Args:
        state_dir: Folder of mode 0700, made when needed.
        survives_power_cut: Whether a commit waits for the disk. False is for simulations in one process.
    """

    def __init__(self, state_dir: Path, *, survives_power_cut: bool = True) -> None:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = state_dir / "coordinator.sqlite"
        self._lock = threading.RLock()
        if not self._path.exists():
            os.close(os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600))
        try:
            self._db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=30)
            self._db.execute("pragma journal_mode = wal")
            self._synchronous = "full" if survives_power_cut else "off"
            self._db.execute(f"pragma synchronous = {self._synchronous}")
            self._db.execute("pragma foreign_keys = on")
            self._db.executescript(_SCHEMA)
            row = self._db.execute("select value from meta where key = 'schema'").fetchone()
        except sqlite3.DatabaseError as error:
            raise CoordinatorStateRefused(
                f"Expected the coordinator's state in {self._path}, found a file that SQLite cannot read ({error}); "
                "restore it from a backup, or move it away to start empty."
            ) from None
        if row is None:
            self._db.execute("insert or ignore into meta values ('schema', ?)", (str(SCHEMA_VERSION),))
        elif row[0] != str(SCHEMA_VERSION):
            raise CoordinatorStateRefused(
                f"{self._path} has state version {row[0]}, this release reads version {SCHEMA_VERSION}; "
                "run the release that wrote it, or start with an empty state folder."
            )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("begin immediate")
            try:
                yield self._db
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")

    # -- runs -----------------------------------------------------------------------------------------

    def queue_run(self, run_id: str, request: bytes) -> None:
        """Ask for a run; the coordinator process takes it up."""
        with self._transaction() as db:
            db.execute("insert into runs (run_id, request, status) values (?, ?, 'queued')", (run_id, request))

    def run(self, run_id: str) -> StoredRun | None:
        """The run, or None."""
        with self._lock:
            row = self._db.execute(
                "select run_id, request, status, proposal, announcements, confirmations, reason, told from runs "
                "where run_id = ?",
                (run_id,),
            ).fetchone()
        if row is None:
            return None
        run, request, status, proposal, announcements, confirmations, reason, told = row
        return StoredRun(
            run, request, status, proposal, _load(announcements), _load(confirmations), reason, _names(told)
        )

    def next_run(self) -> StoredRun | None:
        """The oldest run that is not over: one in progress before a queued one."""
        with self._lock:
            row = self._db.execute(
                "select run_id from runs where status in ('running', 'paused', 'queued') "
                "order by status = 'queued', rowid limit 1"
            ).fetchone()
        return None if row is None else self.run(row[0])

    def runs(self) -> list[tuple[str, str, str]]:
        """(run id, status, reason), oldest first."""
        with self._lock:
            return self._db.execute("select run_id, status, reason from runs order by rowid").fetchall()

    def set_status(self, run_id: str, status: RunStatus, reason: str = "") -> None:
        """Record where the run stands and, where it failed or waits, why."""
        with self._transaction() as db:
            db.execute("update runs set status = ?, reason = ? where run_id = ?", (status, reason, run_id))

    def close_run(
        self, run_id: str, status: Literal["finished", "failed"], at: str, reason: str = "", **details: object
    ) -> None:
        """Record a run's end and its last event, both or neither: whoever follows the run must see it end."""
        with self._transaction() as db:
            db.execute("update runs set status = ?, reason = ? where run_id = ?", (status, reason, run_id))
            _insert_event(db, at, run_id, status, {**({"reason": reason} if reason else {}), **details})

    def set_told(self, run_id: str, members: tuple[str, ...], *, everybody: bool) -> None:
        """Record who knows that the run is over; `everybody` says that no member of its cohort is left to tell."""
        with self._transaction() as db:
            db.execute(
                "update runs set told = ?, end_known = ? where run_id = ?", (json.dumps(members), everybody, run_id)
            )

    def ends_to_tell(self) -> list[StoredRun]:
        """Runs that are over and were proposed to members of whom some have not been told yet, oldest first."""
        with self._lock:
            rows = self._db.execute(
                "select run_id from runs where status in ('finished', 'failed') and proposal <> x'' "
                "and not end_known order by rowid"
            ).fetchall()
        return [stored for (run_id,) in rows if (stored := self.run(run_id)) is not None]

    def set_proposal(self, run_id: str, proposal: bytes) -> None:
        """Commit the signed proposal before it is sent: a restarted coordinator proposes the same run."""
        with self._transaction() as db:
            db.execute("update runs set proposal = ?, status = 'running' where run_id = ?", (proposal, run_id))

    def set_epoch(self, run_id: str, announcements: tuple[bytes, ...], confirmations: tuple[bytes, ...]) -> None:
        """Commit the key epoch's public messages (E1 and E2)."""
        with self._transaction() as db:
            db.execute(
                "update runs set announcements = ?, confirmations = ? where run_id = ?",
                (_dump(announcements), _dump(confirmations), run_id),
            )

    # -- sums -----------------------------------------------------------------------------------------

    def fix_survivors(self, run_id: str, k: int, purpose: str, survivors: tuple[str, ...]) -> None:
        """Commit who survives before anybody is told; a later call for the same sum names fewer (S2a)."""
        with self._transaction() as db:
            db.execute(
                "insert into sums (run_id, k, purpose, survivors) values (?, ?, ?, ?) "
                "on conflict (run_id, k) do update set survivors = excluded.survivors",
                (run_id, k, purpose, json.dumps(survivors)),
            )

    def finish_sum(self, run_id: str, k: int, sealed_sum: bytes) -> None:
        """Commit the sealed sum: the checkpoint of the step."""
        with self._transaction() as db:
            db.execute("update sums set sealed_sum = ? where run_id = ? and k = ?", (sealed_sum, run_id, k))

    def sums(self, run_id: str) -> list[StoredSum]:
        """All sums of the run in order, without their sealed bytes."""
        return self._sums("select k, purpose, survivors, x'' from sums where run_id = ? order by k", run_id)

    def sealed_sums(self, run_id: str, first_k: int) -> list[StoredSum]:
        """The finished sums from `first_k` on, for a member that lags behind."""
        return self._sums(
            "select k, purpose, survivors, sealed_sum from sums "
            "where run_id = ? and k >= ? and sealed_sum <> x'' order by k",
            run_id,
            first_k,
        )

    def num_finished_sums(self, run_id: str) -> int:
        """How many sums of the run are finished; the next one has this number."""
        with self._lock:
            row = self._db.execute(
                "select count(*) from sums where run_id = ? and sealed_sum <> x''", (run_id,)
            ).fetchone()
        return int(row[0])

    def _sums(self, query: str, *arguments: str | int) -> list[StoredSum]:
        with self._lock:
            rows = self._db.execute(query, arguments).fetchall()
        return [StoredSum(k, purpose, _names(survivors), sealed) for k, purpose, survivors, sealed in rows]

    # -- progress -------------------------------------------------------------------------------------

    def add_event(self, at: str, run_id: str, event: str, **details: object) -> None:
        """Append a line of public progress; `tallystick train` follows it from another process.

        Nothing depends on it, so nobody waits for the disk: kill -9 loses no line, a power cut may lose the last ones.
        """
        with self._lock:
            self._db.execute("pragma synchronous = normal")  # in WAL mode: no wait at commits
            try:
                with self._transaction() as db:
                    _insert_event(db, at, run_id, event, details)
            finally:
                self._db.execute(f"pragma synchronous = {self._synchronous}")

    def events(self, run_id: str, after: int = 0) -> list[Event]:
        """Events of a run with an entry number above `after`."""
        with self._lock:
            rows = self._db.execute(
                "select entry, at, run_id, event, details from events where run_id = ? and entry > ? order by entry",
                (run_id, after),
            ).fetchall()
        return [Event(entry, at, run, event, json.loads(details)) for entry, at, run, event, details in rows]

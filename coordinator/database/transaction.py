"""The writes of one transaction: inserts wait and go out together, and the ledger grows by the entries among them.

Several callers' writes share a transaction (`coordinator.database.group_commit`). Inserting row by row would cost a
statement each; here all rows for a table are one statement. Whatever reads or updates sends the waiting rows first,
so that every caller sees what those before it wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import sqlalchemy as sa

from coordinator.database.errors import StoreUnavailable
from coordinator.database.schema import Base, LedgerEntryRow, LedgerHeadRow, LedgerNodeRow
from protos.ledger.merkle import Frontier, leaf_hash

STORED_LEVELS: Final = 8
"""Roots of perfect subtrees are kept at every eighth level: one row for 256 entries, and short proofs all the same."""

_Row = Mapping[str, Any]
_ENTRIES: Final = cast("sa.Table", LedgerEntryRow.__table__)
_NODES: Final = cast("sa.Table", LedgerNodeRow.__table__)
_HEAD: Final = sa.select(LedgerHeadRow.size, LedgerHeadRow.frontier).where(LedgerHeadRow.id == 1).with_for_update()
_IN_ORDER: Final = tuple(Base.metadata.sorted_tables)


@dataclass(frozen=True)
class Mark:
    """How far a transaction was at some moment."""

    sent: int
    waiting: Mapping[sa.Table, int]
    frontier: Frontier | None


class Transaction:
    """One transaction over the coordinator's database, in the thread that opened it.

    Args:
        connection: In a transaction that somebody else commits, after `finish`.
    """

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._waiting: dict[sa.Table, list[_Row]] = {}
        self._sent = 0
        self._frontier: Frontier | None = None
        self._size_before = 0

    def insert(self, model: type[Base], **row: Any) -> None:
        """Insert a row, with the others of this transaction."""
        self._waiting.setdefault(cast("sa.Table", model.__table__), []).append(row)

    def execute(self, statement: sa.Executable, **values: Any) -> sa.CursorResult[Any]:
        """Read or update, after the rows that wait; `values` are the statement's own bound parameters."""
        self._send()
        self._sent += 1
        return cast("sa.CursorResult[Any]", self._connection.execute(statement, values))

    def look_up(self, statement: sa.Executable, **values: Any) -> sa.RowMapping | None:
        """Read one row without sending what waits: for what the waiting rows cannot change, or may not."""
        return self._connection.execute(statement, values).mappings().first()

    def look_up_all(self, statement: sa.Executable, **values: Any) -> Sequence[sa.RowMapping]:
        """As `look_up`, all rows."""
        return self._connection.execute(statement, values).mappings().all()

    def append(self, kind: str, body: bytes) -> int:
        """Append an entry to the ledger.

        Args:
            kind: What it is, for those who list entries.
            body: Canonical JSON in ASCII.

        Returns:
            Its position in the log.
        """
        if self._frontier is None:
            self._frontier = self._lock_head()
            self._size_before = self._frontier.size
        entry, leaf = self._frontier.size, leaf_hash(body)
        self._frontier, completed = self._frontier.append(leaf)
        self._waiting.setdefault(_ENTRIES, []).append(
            {"entry": entry, "kind": kind, "body": body.decode("ascii"), "leaf_hash": leaf}
        )
        for subtree in completed:
            if subtree.level % STORED_LEVELS == 0:
                self._waiting.setdefault(_NODES, []).append(
                    {"level": subtree.level, "position": subtree.position, "hash": subtree.hash}
                )
        return entry

    def mark(self) -> Mark:
        """Where the transaction is now."""
        return Mark(self._sent, {table: len(rows) for table, rows in self._waiting.items()}, self._frontier)

    def back_to(self, mark: Mark) -> bool:
        """Forget what was written since, as long as none of it was sent.

        Returns:
            False when some was: then the whole transaction must be rolled back.
        """
        if self._sent != mark.sent:
            return False
        for table, rows in self._waiting.items():
            del rows[mark.waiting.get(table, 0) :]
        if mark.frontier is not None:
            self._frontier = mark.frontier
        elif self._frontier is not None:  # the lock on the head stays, what was appended under it goes
            self._frontier = self._lock_head()
        return True

    def finish(self) -> None:
        """Send what waits, and move the ledger's head; the commit is the caller's."""
        if self._frontier is not None and self._frontier.size > self._size_before:
            moved = self._connection.execute(
                sa.update(LedgerHeadRow)
                .where(LedgerHeadRow.id == 1, LedgerHeadRow.size == self._size_before)
                .values(size=self._frontier.size, frontier=self._frontier.to_bytes())
            )
            if moved.rowcount != 1:  # the lock was lost: nothing of this may be committed
                raise StoreUnavailable(
                    "Expected the ledger's head where this transaction found it, found it moved; send it again."
                )
        self._send()

    def _send(self) -> None:
        if not self._waiting:
            return
        self._sent += 1
        for table in _IN_ORDER:
            rows = self._waiting.get(table)
            if rows:
                self._connection.execute(table.insert(), rows)
        self._waiting.clear()

    def _lock_head(self) -> Frontier:
        size, frontier = self._connection.execute(_HEAD).one()
        return Frontier.from_bytes(size, frontier)

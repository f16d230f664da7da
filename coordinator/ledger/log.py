"""The log as it is stored: its head, its entries, and the subtrees that proofs are made of.

Leaf hashes stand in the entries' rows, the roots of subtrees of 256, 65536, ... leaves in rows of their own. A proof
for one of a million entries reads a thousand hashes in a few statements; nothing is kept in memory, so a restart
costs nothing, and several processes may read and append at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from coordinator.database.schema import LedgerEntryRow, LedgerHeadRow, LedgerNodeRow
from coordinator.database.transaction import STORED_LEVELS
from policies.errors import UserError
from protos.ledger import merkle
from protos.ledger.merkle import Frontier, subtree_of

_PIECE: Final = 1000
_ENTRIES: Final = (
    sa.select(LedgerEntryRow.entry, LedgerEntryRow.kind, LedgerEntryRow.body, LedgerEntryRow.leaf_hash)
    .where(LedgerEntryRow.entry >= sa.bindparam("begin"), LedgerEntryRow.entry < sa.bindparam("end"))
    .order_by(LedgerEntryRow.entry)
    .limit(_PIECE)
)
TILE: Final = 1 << STORED_LEVELS
_LEAVES: Final = (
    sa.select(LedgerEntryRow.entry, LedgerEntryRow.leaf_hash)
    .where(LedgerEntryRow.entry >= sa.bindparam("begin"), LedgerEntryRow.entry < sa.bindparam("end"))
    .order_by(LedgerEntryRow.entry)
)
_NODES: Final = (
    sa.select(LedgerNodeRow.position, LedgerNodeRow.hash)
    .where(
        LedgerNodeRow.level == sa.bindparam("level"),
        LedgerNodeRow.position >= sa.bindparam("begin"),
        LedgerNodeRow.position < sa.bindparam("end"),
    )
    .order_by(LedgerNodeRow.position)
)


class LedgerDamaged(UserError):
    """The stored log is not what was appended."""


@dataclass(frozen=True)
class StoredEntry:
    """One entry as stored; nothing here says that it is what was appended."""

    entry: int
    kind: str
    body: bytes
    leaf_hash: bytes


class Log:
    """Reads the log over a connection, in one transaction: what it has read once it does not read again.

    Args:
        connection: For reads.
    """

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._tiles: dict[tuple[int, int], Sequence[bytes]] = {}

    def head(self) -> Frontier:
        """Size and frontier as last committed.

        Raises:
            LedgerDamaged: The head is not one that appends could have left.
        """
        size, raw = self._connection.execute(sa.select(LedgerHeadRow.size, LedgerHeadRow.frontier)).one()
        try:
            return Frontier.from_bytes(size, raw)
        except ValueError as problem:
            raise LedgerDamaged(f"The ledger's head: {problem}; restore the database from a backup.") from None

    def entry(self, entry: int) -> StoredEntry | None:
        """One entry, or None behind the log's end."""
        return next(self.entries(entry, entry + 1), None)

    def entries(self, begin: int, end: int) -> Iterator[StoredEntry]:
        """Entries [begin, end) in order, read in pieces; a missing one is left out."""
        while begin < end:
            piece = self._connection.execute(_ENTRIES, {"begin": begin, "end": end}).all()
            for number, kind, body, leaf in piece:
                yield StoredEntry(number, kind, body.encode(), leaf)
            if len(piece) < _PIECE:
                return
            begin = piece[-1].entry + 1

    def subtree(self, level: int, position: int) -> bytes:
        """Root of the perfect subtree of 2**level leaves that begins at leaf position * 2**level.

        Raises:
            LedgerDamaged: Rows of it are missing.
        """
        stored = level - level % STORED_LEVELS
        width = 1 << (level - stored)
        number, begin = divmod(position * width, TILE)
        hashes = self._tile(stored, number)[begin : begin + width]
        if len(hashes) != width:
            raise LedgerDamaged(
                f"The ledger: expected {width} hashes at level {stored} from position {position * width}, found"
                f" {len(hashes)}; run `tallystick ledger verify` on the database, then restore it from a backup."
            )
        return subtree_of(hashes)

    def _tile(self, level: int, number: int) -> Sequence[bytes]:
        """Up to 256 neighbouring hashes of a stored level: a proof needs several of them, and they cost one read."""
        if (level, number) not in self._tiles:
            begin = {"level": level, "begin": number * TILE, "end": (number + 1) * TILE}
            rows = self._connection.execute(_LEAVES if level == 0 else _NODES, begin).all()
            expected = range(number * TILE, number * TILE + len(rows))
            if [row[0] for row in rows] != list(expected):
                raise LedgerDamaged(
                    f"The ledger: expected hashes without a gap at level {level} from position {number * TILE}, found"
                    " one missing; run `tallystick ledger verify` on the database, then restore it from a backup."
                )
            self._tiles[level, number] = [row[1] for row in rows]
        return self._tiles[level, number]

    def root(self, size: int) -> bytes:
        """Root of the first `size` entries."""
        return merkle.tree_root(size, self.subtree)

    def inclusion_proof(self, entry: int, size: int) -> tuple[bytes, ...]:
        """The path from an entry to the root of the first `size`."""
        return merkle.inclusion_proof(entry, size, self.subtree)

    def consistency_proof(self, old_size: int, size: int) -> tuple[bytes, ...]:
        """Proof that the first `size` entries continue the first `old_size`."""
        return merkle.consistency_proof(old_size, size, self.subtree)

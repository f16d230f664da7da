"""Hold the stored decisions against the ledger, row by row, and the ledger against what was signed.

1. Entries are numbered without a gap, in their one encoding, each with its own leaf hash.
2. The roots at the kept checkpoints, the stored subtrees and the head are those of the entries; the checkpoints and
   their cosignatures verify; the newest checkpoint that was ever signed is among them.
3. Every decision, transition and offer has the entry that it names, which commits to its bytes; no such entry is
   without its row.
4. A decision stands where its transitions have led.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from coordinator.database.schema import CheckpointRow, CosignatureRow, LedgerNodeRow
from coordinator.database.transaction import STORED_LEVELS
from coordinator.ledger.audit_rows import LedgeredRow, ledgered_rows, misplaced
from coordinator.ledger.entries import Entry, parse_entry
from coordinator.ledger.log import LedgerDamaged, Log, StoredEntry
from policies.ledger_keys import LedgerKeys
from protos.ledger.checkpoints import Checkpoint, open_checkpoint, verify_cosignature
from protos.ledger.errors import LedgerError
from protos.ledger.merkle import Frontier, leaf_hash
from protos.ledger.notes import NoteSignature, parse_note

MAX_FINDINGS: Final = 20
KINDS_WITH_ROWS: Final = ("decision", "transition", "offer")
_END: Final = 1 << 62


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was written.

    Attributes:
        entry: The ledger entry that it belongs to, where it belongs to one.
        row: What was looked at.
        what: Expected and found.
    """

    entry: int | None
    row: str
    what: str

    def __str__(self) -> str:
        return f"{self.row}: {self.what}" if self.entry is None else f"entry {self.entry}, {self.row}: {self.what}"


@dataclass
class AuditReport:
    """What an audit found.

    Attributes:
        size: Entries read.
        rows: Decisions, transitions and offers held against them.
        root: Of all entries.
        checkpoints: Kept checkpoints that were checked.
        cosigned_size: Entries under the newest one that a witness has signed; 0 where there is none.
        witnesses: Who has.
        findings: The first `MAX_FINDINGS`, by entry; none when all is well.
    """

    size: int = 0
    rows: int = 0
    root: bytes = b""
    checkpoints: int = 0
    cosigned_size: int = 0
    witnesses: tuple[str, ...] = ()
    findings: list[Finding] = field(default_factory=list)


class _Enough(Exception):
    """No more findings are wanted."""


def audit(connection: sa.Connection, keys: LedgerKeys | None = None, signed: Checkpoint | None = None) -> AuditReport:
    """Check a whole database.

    Args:
        connection: For reads, all in one transaction: the database may be written meanwhile.
        keys: The ledger's keys of the agreement; without them no signature is checked.
        signed: The newest checkpoint that was ever signed, from the file beside the database.
    """
    one = _Audit(connection, keys, signed)
    with suppress(_Enough):
        one.run()
    one.report.findings.sort(key=lambda found: _END if found.entry is None else found.entry)
    return one.report


class _Audit:
    def __init__(self, connection: sa.Connection, keys: LedgerKeys | None, signed: Checkpoint | None) -> None:
        self._connection = connection
        self._keys = keys
        self._log = Log(connection)
        self._frontier = Frontier()
        self._covered = 0
        """Entries under the last root that was known."""
        self._altered = -1
        """Last entry whose hash is not its own: what is computed over it differs too, and is no finding by itself."""
        self.report = AuditReport()
        self._known = self._known_roots(signed)
        self._subtrees = self._stored_subtrees()
        self._rows = {kind: ledgered_rows(connection, kind) for kind in KINDS_WITH_ROWS}
        self._next: dict[str, LedgeredRow | None] = {kind: next(rows, None) for kind, rows in self._rows.items()}

    def run(self) -> None:
        """All of it, in the order of the entries."""
        self._compare_root()
        for stored in self._log.entries(0, _END):
            number = self._frontier.size
            if stored.entry != number:
                self._find(number, "the log", f"expected entry {number}, found {stored.entry}; entries are missing.")
                break
            entry = self._entry(stored)
            self._append(stored)
            self._compare_root()
            self.report.size = self._frontier.size
            self.report.root = self._frontier.root()
            for kind in KINDS_WITH_ROWS:
                self._row_of(kind, number, entry)
        self._end()

    def _find(self, entry: int | None, row: str, what: str) -> None:
        self.report.findings.append(Finding(entry, row, what))
        if len(self.report.findings) == MAX_FINDINGS:
            raise _Enough

    # -- the log --------------------------------------------------------------------------------------

    def _entry(self, stored: StoredEntry) -> Entry | None:
        if leaf_hash(stored.body) != stored.leaf_hash:
            self._altered = stored.entry
            self._find(stored.entry, "the log", "expected the entry's own hash, found another; it was altered.")
        try:
            entry = parse_entry(stored.body)
        except LedgerError as problem:
            self._find(stored.entry, "the log", str(problem))
            return None
        if entry.kind != stored.kind:
            self._find(stored.entry, "the log", f"expected kind {entry.kind!r}, found {stored.kind[:32]!r} beside it.")
        return entry

    def _append(self, stored: StoredEntry) -> None:
        self._frontier, completed = self._frontier.append(leaf_hash(stored.body))
        for subtree in completed:
            if subtree.level % STORED_LEVELS:
                continue
            begin = subtree.position << subtree.level
            found = self._subtrees.pop((subtree.level, subtree.position), None)
            if found != subtree.hash and self._altered < begin:
                self._find(begin, "the subtrees", f"expected the root of the entries to {stored.entry}, found another.")

    def _stored_subtrees(self) -> dict[tuple[int, int], bytes]:
        statement = sa.select(LedgerNodeRow.level, LedgerNodeRow.position, LedgerNodeRow.hash)
        return {(level, position): found for level, position, found in self._connection.execute(statement)}

    def _known_roots(self, signed: Checkpoint | None) -> dict[int, list[tuple[str, Checkpoint]]]:
        """Where in the log a root is known, and from what."""
        known: dict[int, list[tuple[str, Checkpoint]]] = {}
        if signed is not None:
            known[signed.size] = [("the newest signed checkpoint", signed)]
        statement = sa.select(CheckpointRow.size, CheckpointRow.root, CheckpointRow.note).order_by(CheckpointRow.size)
        for size, root, text in self._connection.execute(statement).all():
            row = f"the checkpoint of {size} entries"
            try:
                checkpoint = self._checkpoint(size, text)
            except LedgerError as problem:
                self._find(None, row, str(problem))
                continue
            if (checkpoint.size, checkpoint.root) != (size, root):
                self._find(None, row, "expected the note's size and root beside it, found others.")
            known.setdefault(checkpoint.size, []).append((row, checkpoint))
            self.report.checkpoints += 1
        return known

    def _checkpoint(self, size: int, text: str) -> Checkpoint:
        note = parse_note(text.encode())
        if self._keys is None:
            return Checkpoint.parse(note.text)
        lines = sa.select(CosignatureRow.witness, CosignatureRow.line).where(CosignatureRow.size == size)
        witnesses = []
        for witness, line in self._connection.execute(lines.order_by(CosignatureRow.witness)):
            key = self._keys.witnesses.get(witness)
            if key is not None:  # a member that has left cannot be checked by today's agreement
                verify_cosignature(note.text, NoteSignature.parse(line), key)
                witnesses.append(witness)
        if witnesses:
            self.report.cosigned_size, self.report.witnesses = size, tuple(witnesses)
        return open_checkpoint(note, self._keys.log)

    def _compare_root(self) -> None:
        size = self._frontier.size
        for row, checkpoint in self._known.pop(size, ()):
            if checkpoint.root != self._frontier.root() and self._altered < self._covered:
                self._find(
                    self._covered,
                    row,
                    f"expected its root over the entries before it, found another; one of the entries {self._covered}"
                    f" to {size - 1} was rewritten.",
                )
            self._covered = size

    # -- rows -----------------------------------------------------------------------------------------

    def _row_of(self, kind: str, number: int, entry: Entry | None) -> None:
        """Compare an entry with the row that names it, if it is of a kind that has rows."""
        wanted = entry is not None and entry.kind == kind
        row = self._next[kind]
        while row is not None and row.entry < number:
            self._find(row.entry if row.entry >= 0 else None, row.name, "expected an entry of its own, found none.")
            row = self._advance(kind)
        if row is not None and row.entry == number:
            self.report.rows += 1
            problem = row.problem(entry) if entry is not None else "expected its entry, found one that cannot be read."
            if problem is not None:
                self._find(number, row.name, problem)
            self._advance(kind)
        elif wanted:
            self._find(
                number, f"the {kind}", f"expected the {kind} that the entry is about, found none; it was deleted."
            )

    def _advance(self, kind: str) -> LedgeredRow | None:
        self._next[kind] = next(self._rows[kind], None)
        return self._next[kind]

    def _end(self) -> None:
        size = self._frontier.size
        for row in self._left_over():
            self._find(size, row.name, f"expected its entry {row.entry}, found a log that ends before it.")
        for known in sorted(self._known):
            for name, _ in self._known[known]:
                self._find(size, name, f"expected {known} entries, found {size}; the others are gone.")
        if self._subtrees:
            self._find(size, "the subtrees", f"expected none beyond {size} entries, found {len(self._subtrees)}.")
        try:
            head = self._log.head()
        except LedgerDamaged as problem:
            self._find(None, "the head", str(problem))
        else:
            if head.size != size or (head != self._frontier and self._altered < 0):
                self._find(None, "the head", f"expected the log's {size} entries and their root, found another head.")
        for entry, decision_id in misplaced(self._connection):
            self._find(
                entry, f"decision {decision_id}", "expected the status that its transitions led to, found another."
            )

    def _left_over(self) -> Iterator[LedgeredRow]:
        for kind in KINDS_WITH_ROWS:
            row = self._next[kind]
            while row is not None:
                yield row
                row = self._advance(kind)

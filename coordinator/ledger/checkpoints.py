"""Sign checkpoints of the stored log, and prove that entries are under them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.database.schema import CheckpointRow, CosignatureRow
from coordinator.decisions.store import DecisionStore
from coordinator.ledger.high_water import HighWaterMark
from coordinator.ledger.log import LedgerDamaged, Log
from policies.errors import UserError
from protos.ledger.checkpoints import Checkpoint, log_key, sign_checkpoint
from protos.ledger.merkle import Frontier
from protos.ledger.notes import Note, NoteSignature, parse_note

MARK_FILE: Final = "ledger.checkpoint"


class LedgerRolledBack(UserError):
    """The stored log does not continue what was signed before: nothing of it may be signed."""


class EntryUnknown(UserError):
    """The log has no such entry."""


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint with its signatures: the operator's first, then the witnesses'."""

    checkpoint: Checkpoint
    note: Note


@dataclass(frozen=True)
class InclusionEvidence:
    """Everything that shows an entry to be in the log.

    Attributes:
        entry: Its position.
        body: Its bytes.
        proof: From its leaf to the checkpoint's root, lowest first.
        checkpoint: Signed, and co-signed where witnesses have seen the entry.
    """

    entry: int
    body: bytes
    proof: tuple[bytes, ...]
    checkpoint: SignedCheckpoint


class Checkpointer:
    """Signs the log's newest state when somebody needs it. Safe to use from several threads.

    Args:
        store: The store whose ledger it is.
        private: The operator's identity key.
        state_dir: Where the newest signed checkpoint is kept, beside the database and not in it.

    Raises:
        LedgerRolledBack: The stored log does not continue what was signed before.
    """

    def __init__(self, store: DecisionStore, private: Ed25519PrivateKey, state_dir: Path) -> None:
        self._store = store
        self._private = private
        self.key = log_key(store.origin, private.public_key().public_bytes_raw())
        self._mark = HighWaterMark(state_dir / MARK_FILE, self.key)
        self._lock = threading.Lock()
        self._newest: SignedCheckpoint | None = None
        with store.reading() as connection:
            self._require_continuation(Log(connection))

    def newest(self, *, covering: int = -1) -> SignedCheckpoint:
        """The newest checkpoint of this process; a new one when an entry is not under it.

        Signed and put on the disk once for all who ask in the meantime.

        Args:
            covering: Position of the entry that must be under it; -1 takes whatever is there.

        Raises:
            EntryUnknown: The log has no such entry.
            LedgerRolledBack: The log has become shorter than what was signed.
        """
        with self._lock:
            if self._newest is not None and -1 < covering < self._newest.checkpoint.size:
                return self._newest
            with self._store.reading() as connection:
                head = Log(connection).head()
            if covering >= head.size:
                raise EntryUnknown(f"Expected an entry below the ledger's size {head.size}, found {covering}.")
            self._newest = self._sign(head)
            return self._newest

    def sign_past(self, size: int, root: bytes) -> Note:
        """A checkpoint of what the log was: for exports, whose reader wants to know where a change begins.

        Args:
            size: Not above the newest checkpoint's.
            root: Recomputed from the entries by the caller, who has seen that they lead to the newest checkpoint.
        """
        if self._newest is None or size > self._newest.checkpoint.size:
            raise ValueError(f"expected a size under the newest checkpoint, found {size}")
        return sign_checkpoint(Checkpoint(self._store.origin, size, root), self._private)

    def _sign(self, head: Frontier) -> SignedCheckpoint:
        before = self._newest
        checkpoint = Checkpoint(self._store.origin, head.size, head.root())
        if before is not None:
            if checkpoint == before.checkpoint:
                return before
            if head.size <= before.checkpoint.size:
                raise _rolled_back(before.checkpoint, head.size)
        note = sign_checkpoint(checkpoint, self._private)
        self._mark.raise_to(note)
        return SignedCheckpoint(checkpoint, note)

    def _require_continuation(self, log: Log) -> None:
        """The stored log begins with everything that was signed: the rule that no log may break."""
        head, signed = log.head(), self._mark.read()
        if log.root(head.size) != head.root():
            raise LedgerDamaged(
                "The ledger's head is not that of its entries; run `tallystick ledger verify` on the database, then"
                " restore it from a backup."
            )
        if signed is not None and (head.size < signed.size or log.root(signed.size) != signed.root):
            raise _rolled_back(signed, head.size)

    def proof_for(self, entry: int) -> InclusionEvidence:
        """Prove that an entry is in the log: under the newest co-signed checkpoint that covers it, else a new one.

        Raises:
            EntryUnknown: The log has no such entry.
        """
        signed = self.newest_cosigned(covering=entry) or self.newest(covering=entry)
        with self._store.reading() as connection:
            log = Log(connection)
            stored = log.entry(entry)
            if stored is None:
                raise EntryUnknown(f"Expected an entry of the ledger, found {entry}, which it has not.")
            return InclusionEvidence(entry, stored.body, log.inclusion_proof(entry, signed.checkpoint.size), signed)

    def newest_cosigned(self, *, covering: int = -1) -> SignedCheckpoint | None:
        """The newest checkpoint that a witness has signed and that covers an entry, with all its cosignatures."""
        with self._store.reading() as connection:
            found = connection.execute(
                sa.select(CheckpointRow.size, CheckpointRow.note)
                .where(CheckpointRow.size > covering)
                .where(sa.exists().where(CosignatureRow.size == CheckpointRow.size))
                .order_by(CheckpointRow.size.desc())
                .limit(1)
            ).first()
            return None if found is None else with_cosignatures(connection, found.size, found.note)


def with_cosignatures(connection: sa.Connection, size: int, note: str) -> SignedCheckpoint:
    """A stored checkpoint's note with the witnesses' lines under it, in the order of their names."""
    lines = connection.execute(
        sa.select(CosignatureRow.line).where(CosignatureRow.size == size).order_by(CosignatureRow.witness)
    ).scalars()
    signed = parse_note(note.encode())
    whole = Note(signed.text, (*signed.signatures, *(NoteSignature.parse(line) for line in lines)))
    return SignedCheckpoint(Checkpoint.parse(whole.text), whole)


def _rolled_back(signed: Checkpoint, size: int) -> LedgerRolledBack:
    return LedgerRolledBack(
        f"Expected the ledger to continue the checkpoint of {signed.size} entries that was signed before, found {size}"
        " entries that do not; the database was restored from a backup or changed: bring the newest one back."
    )

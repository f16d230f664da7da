"""This node as a witness of the consortium's ledger: it co-signs checkpoints that continue what it has seen.

What was seen is on the disk before the signature is made (C2SP tlog-witness). A checkpoint that does not continue it
is refused and noted in the journal. Two signed checkpoints of one size with different roots prove that the operator
keeps two ledgers: both notes are kept, and this ledger is not co-signed again, ever.

A state folder that was restored from a copy may not know the latest checkpoints. Such a node co-signs again once
max_colluders + 1 other members have signed the same checkpoint: one of them is honest, and has not lost its memory.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import DecodeError, Message

from nodes.membership import Membership
from nodes.store import NodeStore
from policies.errors import UserError
from policies.ledger_keys import ledger_keys
from protos.ledger.checkpoints import Checkpoint, cosign, open_checkpoint, verify_cosignature
from protos.ledger.errors import CheckpointStale, LedgerError, LogForked, SignatureInvalid
from protos.ledger.notes import Note, parse_note
from protos.ledger.v1 import ledger_pb2
from protos.ledger.witness import MAX_PROOF_HASHES, Seen, require_continuation

log = logging.getLogger(__name__)

ACTION = "witness"
LEDGER = "ledger"
"""Where a run's id stands in the journal."""
MAX_REQUEST_BYTES = 1 << 20


class CheckpointRefused(UserError):
    """This node does not co-sign a checkpoint."""


class LedgerForked(CheckpointRefused):
    """The operator has signed two checkpoints of one size; this ledger is not co-signed any more."""


@dataclass(frozen=True)
class _Memory:
    seen: Seen
    fork: bytes
    unsure: bool


class LedgerWitness:
    """Answers the coordinator's `witness` messages for one member.

    Args:
        membership: Identity and agreement; the agreement names the ledger, the operator's key and the witnesses.
        store: Durable state.
        now: Wall clock as ISO 8601 text, for the journal.
        now_s: The same in Unix seconds, for the cosignature.
    """

    def __init__(
        self, membership: Membership, store: NodeStore, *, now: Callable[[], str], now_s: Callable[[], float]
    ) -> None:
        self._membership = membership
        self._store = store
        self._now = now
        self._now_s = now_s
        self._keys = ledger_keys(membership.agreement)
        self._key = self._keys.witnesses[membership.member]
        self.handlers: dict[str, Callable[[bytes], Message]] = {ACTION: self.handle}

    def handle(self, body: bytes) -> ledger_pb2.WitnessReply:
        """Co-sign a checkpoint, or say what was seen last.

        Raises:
            LedgerForked: The ledger has two checkpoints of one size.
            CheckpointRefused: Anything else that is wrong with it, in one sentence.
        """
        request = _parse(body)
        try:
            note = parse_note(request.checkpoint)
            checkpoint = open_checkpoint(note, self._keys.log)
        except LedgerError as problem:  # not signed by the operator, so nobody's fault is proved
            raise CheckpointRefused(f"Checkpoint: {problem}") from None
        memory = self._memory()
        if memory.fork:
            raise LedgerForked(
                f"The ledger {self._keys.origin} is forked: this node keeps two checkpoints of one size that the"
                " operator has signed; the members must settle it, nothing of it is co-signed any more."
            )
        self._refuse_another_past(checkpoint, note)
        if request.old_size != memory.seen.size and checkpoint.size >= memory.seen.size:
            return ledger_pb2.WitnessReply(seen=ledger_pb2.Seen(size=memory.seen.size))
        try:
            require_continuation(memory.seen, checkpoint, tuple(request.proof))
        except LogForked:
            self._remember_fork(checkpoint, note)
        except LedgerError as problem:
            self._alarm(checkpoint, note, problem)
            raise CheckpointRefused(f"Checkpoint: {problem}") from None
        if memory.unsure:
            self._require_others(note)
        self._remember(checkpoint, note)
        line = cosign(note.text, int(self._now_s()), self._key, self._membership.identity.private)
        return ledger_pb2.WitnessReply(cosignature=line.encode())

    def _memory(self) -> _Memory:
        with self._store.reading() as db:
            row = db.execute(
                "select size, root from witnessed where origin = ? order by size desc limit 1", (self._keys.origin,)
            ).fetchone()
            ledger = db.execute(
                "select fork, unsure from ledgers where origin = ?", (self._keys.origin,)
            ).fetchone() or (b"", 0)
        return _Memory(Seen() if row is None else Seen(*row), ledger[0], bool(ledger[1]))

    def _refuse_another_past(self, checkpoint: Checkpoint, note: Note) -> None:
        """Any size that was co-signed before has one root for ever, not the largest alone."""
        with self._store.reading() as db:
            known = db.execute(
                "select root from witnessed where origin = ? and size = ?", (self._keys.origin, checkpoint.size)
            ).fetchone()
        if known is not None and known[0] != checkpoint.root:
            self._remember_fork(checkpoint, note)

    def _remember(self, checkpoint: Checkpoint, note: Note) -> None:
        with self._store.transaction() as db:
            db.execute("insert or ignore into ledgers (origin) values (?)", (checkpoint.origin,))
            db.execute("update ledgers set unsure = 0 where origin = ?", (checkpoint.origin,))
            db.execute(
                "insert or ignore into witnessed values (?, ?, ?, ?, ?)",
                (checkpoint.origin, checkpoint.size, checkpoint.root, note.encode().encode(), self._now()),
            )

    def _remember_fork(self, checkpoint: Checkpoint, note: Note) -> None:
        """Keep the proof, on the disk before anybody hears of it.

        Raises:
            LedgerForked: Always.
        """
        with self._store.transaction() as db:
            db.execute(
                "insert into ledgers (origin, fork) values (?, ?) "
                "on conflict (origin) do update set fork = excluded.fork",
                (checkpoint.origin, note.encode().encode()),
            )
        forked = LedgerForked(
            f"Checkpoint of {checkpoint.size} entries: expected the root that this node has co-signed for that size,"
            " found another under the operator's signature; the ledger is forked, nothing of it is co-signed any more."
        )
        self._alarm(checkpoint, note, forked)
        raise forked

    def _require_others(self, note: Note) -> None:
        needed = self._membership.agreement.privacy.max_colluders + 1
        signed = 0
        for member, key in self._keys.witnesses.items():
            if member == self._membership.member:
                continue
            try:
                verify_cosignature(note.text, note.by(key), key)
            except SignatureInvalid:
                continue
            signed += 1
        if signed < needed:
            raise CheckpointRefused(
                f"This node's state was restored from a copy, so it may have seen more of the ledger than it knows:"
                f" expected {needed} other members' cosignatures, found {signed}; send the checkpoint again with them."
            )

    def _alarm(self, checkpoint: Checkpoint, note: Note, problem: Exception) -> None:
        log.error("ledger: %s", problem)
        stale = isinstance(problem, CheckpointStale)
        self._store.journal(
            self._now(),
            LEDGER,
            "stale checkpoint refused" if stale else "ledger alarm",
            size=checkpoint.size,
            root=checkpoint.root.hex(),
            note_sha256=hashlib.sha256(note.encode().encode()).hexdigest(),
            reason=str(problem)[:500],
        )


def _parse(body: bytes) -> ledger_pb2.WitnessRequest:
    if len(body) > MAX_REQUEST_BYTES:
        raise CheckpointRefused(f"A request to witness has at most {MAX_REQUEST_BYTES} bytes, this one {len(body)}.")
    request = ledger_pb2.WitnessRequest()
    try:
        request.ParseFromString(body)
    except DecodeError:
        raise CheckpointRefused(
            f"Expected a WitnessRequest, found {len(body)} bytes that are none; both ends must run the same release."
        ) from None
    if len(request.proof) > MAX_PROOF_HASHES:
        raise CheckpointRefused(
            f"Expected a proof of at most {MAX_PROOF_HASHES} hashes, found {len(request.proof)}; send the right one."
        )
    return request

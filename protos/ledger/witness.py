"""What a witness holds a checkpoint against: the one that it has seen last. Pure; the memory is the caller's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from protos.ledger.checkpoints import Checkpoint
from protos.ledger.errors import CheckpointInconsistent, CheckpointStale, LogForked, ProofInvalid
from protos.ledger.merkle import EMPTY_ROOT, verify_consistency

MAX_PROOF_HASHES: Final = 63


@dataclass(frozen=True)
class Seen:
    """The largest checkpoint of a log that a witness has co-signed; before the first, an empty log."""

    size: int = 0
    root: bytes = EMPTY_ROOT


def require_continuation(seen: Seen, checkpoint: Checkpoint, proof: Sequence[bytes]) -> None:
    """Check that a checkpoint, signed by its log, continues what was seen.

    Args:
        seen: What the witness remembers.
        checkpoint: What it is asked to co-sign.
        proof: Consistency proof from `seen.size`.

    Raises:
        CheckpointStale: It has fewer entries: the log was rolled back, or an old checkpoint is replayed.
        LogForked: It has as many entries and another root; the two signed notes together prove that the log lies.
        CheckpointInconsistent: The proof does not show that it continues what was seen.
    """
    if checkpoint.size < seen.size:
        raise CheckpointStale(
            f"expected a checkpoint of at least the {seen.size} entries seen before, found one of {checkpoint.size};"
            " the ledger was rolled back, or an old checkpoint is replayed."
        )
    if checkpoint.size == seen.size and checkpoint.root != seen.root:
        raise LogForked(
            f"expected the root seen before for {seen.size} entries, found another under the operator's signature;"
            " the ledger is forked: nothing of it is co-signed any more."
        )
    try:
        if len(proof) > MAX_PROOF_HASHES:
            raise ProofInvalid(f"expected at most {MAX_PROOF_HASHES} hashes, found {len(proof)}.")
        verify_consistency(seen.size, seen.root, checkpoint.size, checkpoint.root, proof)
    except ProofInvalid as problem:
        raise CheckpointInconsistent(str(problem)) from None

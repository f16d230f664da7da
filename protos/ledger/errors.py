"""What the ledger's rules refuse.

Tree::

    LedgerError
      ProofInvalid            an inclusion or consistency proof does not lead to the root
      NoteMalformed           bytes that are no signed note, or a text that is no checkpoint
      SignatureInvalid        a note without a valid signature of the key that must have signed it
      CheckpointStale         a checkpoint of fewer entries than the witness has seen
      CheckpointInconsistent  no proof that a checkpoint continues the one that the witness has seen
      LogForked               two checkpoints of one size with different roots: proof that the log lies
"""

from __future__ import annotations


class LedgerError(Exception):
    """A rule of the ledger does not hold: `str(error)` is one sentence (expected, found, what to do)."""


class ProofInvalid(LedgerError):
    """A proof does not lead to the root it is for."""


class NoteMalformed(LedgerError):
    """Bytes that are no signed note, or a text that is no checkpoint."""


class SignatureInvalid(LedgerError):
    """A note without a valid signature of the key that must have signed it."""


class CheckpointStale(LedgerError):
    """A checkpoint of fewer entries than the witness has seen."""


class CheckpointInconsistent(LedgerError):
    """No proof that a checkpoint continues the one that the witness has seen."""


class LogForked(LedgerError):
    """Two checkpoints of one size with different roots."""

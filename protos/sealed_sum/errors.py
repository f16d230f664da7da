"""Every way a sealed sum refuses, as one type each, with what was expected and what was found.

SealedSumError
|-- BoundsViolated        parameters under which a single member could be opened (PROTOCOLS section 0)
|-- CohortRefused         a cohort, a survivor set or a slot has too few members, or wrong ones
|-- MalformedMessage      bytes that are not the message they should be
|   `-- MalformedCiphertext
|-- BadSignature          a message is not from whom it says
|-- WrongEpoch            a message of another epoch, agreement or run (A10)
|-- EpochEnded            the epoch was ended by a failed opening (A4)
|-- WeakKey               an X25519 exchange gives all zeros (A12)
|-- DealRefused           the dealt key fails its self-test or is not everybody's key (A11)
|-- HeaderMismatch        two sides do not mean the same sum (A3)
|-- StaleSum              a sum number that was used before (A8)
|-- SurvivorSetRefused    a survivor set that grew, changed, or differs from the one opened before (A2, A6, A7)
|-- SeedAndShareRefused   seed and share of one peer (A6)
|-- ShareInvalid          a share or a seed that does not decrypt or does not fit its commitment (A12)
|-- ConflictingMessage    a member sent two different messages for one step (A8)
|-- IncompleteAnswers     a step was closed before enough answers arrived
|-- OpeningRefused        a sealed sum that is not the sum it should be (A4); always the same text
`-- ValueOutOfRange       a member's own value leaves the public range of its field
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protos.sealed_sum.memory import EpochMemory


class SealedSumError(Exception):
    """A sealed sum was refused; `str()` is one sentence that is safe to show and to log."""


class BoundsViolated(SealedSumError):
    """The numbers (cohort, max_colluders, min_survivors, shamir_threshold) would let one member be opened."""


class CohortRefused(SealedSumError):
    """A cohort, survivor set or slot has too few or unexpected members."""


class MalformedMessage(SealedSumError):
    """Received bytes are not the message they should be."""


class MalformedCiphertext(MalformedMessage):
    """Received ciphertext bytes are not ciphertexts under the pinned parameters."""


class BadSignature(SealedSumError):
    """A message does not carry a valid signature of the member it names."""

    def __init__(self, *, member: str, message: str) -> None:
        super().__init__(
            f"expected a {message} signed by {member}'s identity key, found another signature; "
            "check the identity key in the agreement"
        )


class WrongEpoch(SealedSumError):
    """A message belongs to another epoch, agreement or run."""


class EpochEnded(SealedSumError):
    """The epoch was ended; new keys are needed before another sum."""

    def __init__(self) -> None:
        super().__init__("this key epoch was ended by a refused opening; start a new epoch with new keys")


class WeakKey(SealedSumError):
    """An X25519 exchange gave all zeros: the peer's public key has small order."""


class DealRefused(SealedSumError):
    """The dealt keys are not usable, or not the same at every member."""


class HeaderMismatch(SealedSumError):
    """A message was made for a sum with another header."""


class StaleSum(SealedSumError):
    """A sum number k that was used before, or is not the current one."""

    def __init__(self, *, expected: str, got: int) -> None:
        super().__init__(f"expected a sum number {expected}, found {got}; every sum of an epoch has a new number")


class SurvivorSetRefused(SealedSumError):
    """A survivor set that this node must not answer for."""


class SeedAndShareRefused(SealedSumError):
    """Both the pairwise seed and a share of the self-mask seed of one peer were asked for."""

    def __init__(self, *, peers: frozenset[str]) -> None:
        super().__init__(
            f"expected either a seed or a share for each peer, found both asked for {', '.join(sorted(peers))}; "
            "the two together would open that member's contribution"
        )


class ShareInvalid(SealedSumError):
    """A share or a seed does not decrypt, or does not rebuild what was committed to."""


class ConflictingMessage(SealedSumError):
    """A member sent a second, different message for a step it had answered."""

    def __init__(self, *, member: str, message: str) -> None:
        super().__init__(f"expected {member} to resend the same {message}, found a different one; keep the first one")


class IncompleteAnswers(SealedSumError):
    """A step was closed before enough members had answered it."""


class OpeningRefused(SealedSumError):
    """A sealed sum did not open to the sum of the named survivors.

    One type and one text for every cause: a node that told noise from tampering would be a decryption oracle.

    Attributes:
        memory: The ended epoch's memory, to be stored before anything else is answered; None when the
            refusal came from decoding a sum that had already opened.
    """

    def __init__(self, memory: EpochMemory | None = None) -> None:
        super().__init__(
            "expected the sealed sum of the named survivors, found something else; "
            "this key epoch is over, start a new one"
        )
        self.memory = memory


class ValueOutOfRange(SealedSumError):
    """A value of this member's own input leaves its field's public range; the value itself is never shown."""

    def __init__(self, *, field: str, low: float, high: float, count: int) -> None:
        super().__init__(
            f"expected every value of field {field!r} within [{low:g}, {high:g}], found {count} outside or not finite; "
            "clip the values or widen the field's range"
        )
        self.field = field

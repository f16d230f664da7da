"""Every way a private set intersection refuses, as one type each, with what was expected and what was found.

SealedSumError                 every refusal of a protocol between members
`-- IntersectionError
    |-- WrongSession           a message of another session, direction or recipient (B8)
    |-- ChunkOutOfOrder        a message that was sent before, or that comes too early (B8)
    |-- ChunkNotAuthentic      a message that does not decrypt for exactly this place (B8)
    |-- MalformedElement       a received element that is not one the protocol produces
    |   `-- WeakElement        ... because it has small order: the exchange gives all zeros (B9)
    |-- SetSizeRefused         a set that is empty, above the cap, or out of proportion (B9)
    |-- InputChanged           this member's own entities are not those that the session began with
    `-- NotComplete            the end was asked for before everything had arrived

Wrong signatures and messages that do not parse are `BadSignature` and `MalformedMessage` of the sealed sum, whose
keys and envelope this protocol uses.
"""

from __future__ import annotations

from protos.sealed_sum.errors import SealedSumError


class IntersectionError(SealedSumError):
    """An intersection was refused; `str()` is one sentence that is safe to show and to log."""


class WrongSession(IntersectionError):
    """A message belongs to another session, direction or recipient."""


class ChunkOutOfOrder(IntersectionError):
    """A message is not the next one of its kind."""

    def __init__(self, *, expected: str, got: str) -> None:
        super().__init__(f"expected {expected} as the next message of the session, found {got}; it is not accepted")


class ChunkNotAuthentic(IntersectionError):
    """A message does not decrypt under the key of its session, direction and number."""


class MalformedElement(IntersectionError):
    """A received element is not the canonical output of an X25519 exchange, or comes twice."""


class WeakElement(MalformedElement):
    """Elements of small order: an exchange gives all zeros and would say nothing about an entity."""

    def __init__(self, *, count: int) -> None:
        super().__init__(f"expected elements of full order, found {count} of small order; the session is refused")
        self.count = count


class SetSizeRefused(IntersectionError):
    """A set is empty, above the cap of this node's policy, or too large or small beside the other one."""


class InputChanged(IntersectionError):
    """The entities of this member differ from those with which the session began."""

    def __init__(self) -> None:
        super().__init__(
            "expected the entities with which this intersection began, found others; "
            "the source has changed since, start a new run"
        )


class NotComplete(IntersectionError):
    """Not everything has arrived yet."""

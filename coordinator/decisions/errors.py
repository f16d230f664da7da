"""What the store of decisions refuses.

Tree::

    DecisionUnknown        the tenant has no such decision (HTTP 404)
    StatusConflict         a decision stands elsewhere than its caller believes (409)
    EventConflict          another event was reported under the same id (409)
    IdempotencyConflict    another request was made under the same Idempotency-Key (422)
    OfferClosed            there is no such offer that is open (409)
    ReviewRefused          a verdict by the wrong person, or out of order (409)

Beside them, `coordinator.database.errors`: StoreBusy (429), StoreUnavailable (503), RecordRefused (422).
"""

from __future__ import annotations

from policies.errors import UserError


class DecisionUnknown(UserError):
    """The tenant has no such decision."""

    def __init__(self, decision_id: str) -> None:
        super().__init__(f"Expected the id of a decision, found {decision_id[:64]!r}, which is none; check the id.")


class StatusConflict(UserError):
    """A decision stands elsewhere than its caller believes."""

    def __init__(self, decision_id: str, *, expected: str, found: str) -> None:
        super().__init__(
            f"Decision {decision_id}: expected it to be {expected!r}, found {found!r}; read it again, then decide."
        )


class EventConflict(UserError):
    """Another event was reported under the same id."""

    def __init__(self, source_id: str) -> None:
        super().__init__(
            f"Event {source_id[:200]!r}: expected the event reported before under this id, found another;"
            " give every event an id of its own."
        )


class IdempotencyConflict(UserError):
    """Another request was made under the same Idempotency-Key."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"Idempotency-Key {key[:255]!r}: expected the request that was made with it, found another;"
            " use a new key for a new request."
        )


class OfferClosed(UserError):
    """There is no such offer that is open."""

    def __init__(self, offer_id: str) -> None:
        super().__init__(f"Expected an open offer, found none with id {offer_id[:64]!r}; list the open ones.")


class ReviewRefused(UserError):
    """A verdict by the wrong person, or out of order."""

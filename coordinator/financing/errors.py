"""What the use cases refuse, beside what they are made of.

Tree::

    ApplicantRefused       the applicant cannot be scored as stated: features that the model does not take (HTTP 422)
    ScoreWithheld          the score exists and may not be given: grant, purpose or budget (403)
    OfferUnknown           the tenant has no such offer (404)
    ReviewUnknown          the tenant has no such review (404)
    OfferNoLongerHolds     an offer that would not be made today (409)
    NotDisbursable         a decision that nothing may be paid out under, or not so much (409)

Beside them: `coordinator.decisions.errors` (DecisionUnknown 404, StatusConflict, EventConflict, OfferClosed and
ReviewRefused 409, IdempotencyConflict 422), `coordinator.database.errors` (StoreBusy 429, StoreUnavailable 503,
RecordRefused 422), `policies.decision_tables.errors.PolicyRefused` (422: a question that the tables have no answer
for, such as a currency without a rate) and `policies.screening.names.ScreeningRefused` (422: a name with nothing in
it to compare).
"""

from __future__ import annotations

from policies.errors import UserError


class ApplicantRefused(UserError):
    """The applicant cannot be scored as stated."""


class ScoreWithheld(UserError):
    """The members or their gateway may not give this score."""


class OfferUnknown(UserError):
    """The tenant has no such offer."""

    def __init__(self, offer_id: str) -> None:
        super().__init__(f"Expected the id of an offer, found {offer_id[:64]!r}, which is none; list the open ones.")


class ReviewUnknown(UserError):
    """The tenant has no such review."""

    def __init__(self, review_id: str) -> None:
        super().__init__(f"Expected the id of a review, found {review_id[:64]!r}, which is none; list the open ones.")


class OfferNoLongerHolds(UserError):
    """An offer that would not be made today."""


class NotDisbursable(UserError):
    """A decision that nothing may be paid out under, or not so much."""

"""What the use cases refuse, as problems of HTTP: the one table between their errors and status codes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from coordinator.api.problems import ProblemError
from coordinator.database.errors import RecordRefused, StoreBusy, StoreUnavailable
from coordinator.decisions.errors import (
    DecisionUnknown,
    EventConflict,
    IdempotencyConflict,
    OfferClosed,
    ReviewRefused,
    StatusConflict,
)
from coordinator.financing.errors import (
    ApplicantRefused,
    NotDisbursable,
    OfferNoLongerHolds,
    OfferUnknown,
    ReviewUnknown,
    ScoreWithheld,
)
from coordinator.identity.errors import AuthenticationRefused, RateLimited, ScopeMissing
from coordinator.ledger.checkpoints import EntryUnknown, LedgerRolledBack
from coordinator.ledger.log import LedgerDamaged
from policies.decision_tables.errors import PolicyRefused
from policies.errors import UserError
from policies.screening.names import ScreeningRefused

_NAMES: Final[Mapping[type[UserError], str]] = MappingProxyType(
    {
        ApplicantRefused: "invalid-features",
        DecisionUnknown: "not-found",
        EntryUnknown: "not-found",
        EventConflict: "conflict",
        IdempotencyConflict: "idempotency-conflict",
        LedgerDamaged: "unavailable",
        LedgerRolledBack: "unavailable",
        NotDisbursable: "conflict",
        OfferClosed: "conflict",
        OfferNoLongerHolds: "conflict",
        OfferUnknown: "not-found",
        PolicyRefused: "no-policy-answer",
        RecordRefused: "invalid-request",
        ReviewRefused: "conflict",
        ReviewUnknown: "not-found",
        ScopeMissing: "forbidden",
        ScoreWithheld: "score-withheld",
        ScreeningRefused: "invalid-request",
        StatusConflict: "conflict",
        StoreBusy: "busy",
        StoreUnavailable: "unavailable",
    }
)
_RETRY_AFTER_S: Final[Mapping[str, str]] = MappingProxyType({"busy": "1", "unavailable": "5"})


def problem_of(refused: UserError) -> ProblemError | None:
    """The problem that an error is to its caller; None for one that is no caller's business."""
    if isinstance(refused, AuthenticationRefused):
        return ProblemError("unauthenticated", str(refused), headers={"WWW-Authenticate": refused.www_authenticate})
    if isinstance(refused, RateLimited):
        return ProblemError("rate-limited", str(refused), headers={"Retry-After": str(refused.retry_after_s)})
    for kind in type(refused).__mro__:
        name = _NAMES.get(kind)
        if name is not None:
            retry = _RETRY_AFTER_S.get(name)
            return ProblemError(name, str(refused), headers={"Retry-After": retry} if retry else {})
    return None

"""Two-person review of referred cases: the maker recommends, another person confirms, and only then is it decided.

    AwaitingMaker --recommend--> AwaitingChecker --confirm--> Closed
          ^                            |
          +---------send_back----------+

Pure: a function takes a state and gives the next one, with one more `Transition` in its record; time and people are
arguments. Against one dishonest officer: nobody who ever recommended in a case, or brought it, can confirm in it; the
checker names the hash of what was read, so the recommendation cannot change between reading and confirming; and no
recommendation is better for the applicant than what the policy proposed.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from pydantic import Field

from policies.closed_model import ClosedModel
from policies.errors import UserError
from policies.lending.money import times
from policies.lending.people import PersonId, Transition, next_step
from policies.lending.record import sha256_of
from policies.lending.types import Approved, Decision, Declined, Id, Reason, Referred, Sha256, Terms


class ReviewRefused(UserError):
    """A step that a review does not allow."""


class Grant(ClosedModel):
    """Recommend to lend, on terms no better than proposed."""

    recommend: Literal["grant"] = "grant"
    terms: Terms


class Refuse(ClosedModel):
    """Recommend to decline."""

    recommend: Literal["refuse"] = "refuse"
    reasons: Annotated[tuple[Reason, ...], Field(min_length=1)]


Recommendation = Annotated[Grant | Refuse, Field(discriminator="recommend")]


class ReviewCase(ClosedModel):
    """What is reviewed; the same in every state.

    Build it with `open_review`.
    """

    case_id: Id
    decision_sha256: Sha256
    """Of the decision that referred the case, as canonical JSON."""
    referred: Referred
    brought_by: PersonId | None
    """Who brought the case in, if a person did."""


class AwaitingMaker(ClosedModel):
    """Nobody has recommended anything yet, or a checker sent the case back."""

    state: Literal["awaiting_maker"] = "awaiting_maker"
    case: ReviewCase
    record: tuple[Transition, ...]
    makers: tuple[PersonId, ...] = ()
    """Everybody who ever recommended in this case."""


class AwaitingChecker(ClosedModel):
    """A maker recommended; another person has to confirm."""

    state: Literal["awaiting_checker"] = "awaiting_checker"
    case: ReviewCase
    record: tuple[Transition, ...]
    makers: Annotated[tuple[PersonId, ...], Field(min_length=1)]
    recommendation: Recommendation

    @property
    def to_confirm_sha256(self) -> str:
        """Hash of case and recommendation: what a checker confirms."""
        return sha256_of({"case": self.case, "recommendation": self.recommendation})


class Closed(ClosedModel):
    """Decided by two people."""

    state: Literal["closed"] = "closed"
    case: ReviewCase
    record: tuple[Transition, ...]
    makers: tuple[PersonId, ...]
    checker: PersonId
    outcome: Annotated[Approved | Declined, Field(discriminator="outcome")]


ReviewState = Annotated[AwaitingMaker | AwaitingChecker | Closed, Field(discriminator="state")]


def open_review(
    case_id: str, decision: Decision, *, by: str, at: dt.datetime, why: str, brought_by: str | None = None
) -> AwaitingMaker:
    """Open a review of a referred decision.

    Args:
        case_id: Its id.
        decision: The decision.
        by: Who opens it; a service has an id too.
        at: When, with an offset.
        why: One line.
        brought_by: The officer who brought the application in, if any; that person cannot be the checker.

    Raises:
        ReviewRefused: The decision is not a referral.
    """
    if not isinstance(decision.outcome, Referred):
        raise ReviewRefused(
            f"expected a referred decision, found one that is {decision.outcome.outcome}; only referrals are reviewed."
        )
    case = ReviewCase(
        case_id=case_id, decision_sha256=sha256_of(decision), referred=decision.outcome, brought_by=brought_by
    )
    return AwaitingMaker(case=case, record=(_step((), "open", "none", "awaiting_maker", by, at, why),))


def recommend(
    state: AwaitingMaker, recommendation: Grant | Refuse, *, by: str, at: dt.datetime, why: str
) -> AwaitingChecker:
    """The maker's step.

    Raises:
        ReviewRefused: Terms better for the applicant than proposed, or a time before the last step.
    """
    if isinstance(recommendation, Grant):
        _no_better_than(recommendation.terms, state.case.referred.proposed)
    step = _step(state.record, "recommend", state.state, "awaiting_checker", by, at, why)
    return AwaitingChecker(
        case=state.case,
        record=(*state.record, step),
        makers=tuple(sorted({*state.makers, step.by})),
        recommendation=recommendation,
    )


def send_back(state: AwaitingChecker, *, by: str, at: dt.datetime, why: str) -> AwaitingMaker:
    """The checker does not agree; the case needs another recommendation.

    Raises:
        ReviewRefused: The person may not check this case, or a time before the last step.
    """
    _may_check(state, by)
    step = _step(state.record, "send back", state.state, "awaiting_maker", by, at, why)
    return AwaitingMaker(case=state.case, record=(*state.record, step), makers=state.makers)


def confirm(state: AwaitingChecker, *, confirmed_sha256: str, by: str, at: dt.datetime, why: str) -> Closed:
    """The checker's step; the case is decided.

    Args:
        state: The case.
        confirmed_sha256: `to_confirm_sha256` of what the checker read.
        by: The checker.
        at: When.
        why: One line.

    Raises:
        ReviewRefused: The person made a recommendation in this case or brought it in; something else was read; or a
            time before the last step.
    """
    _may_check(state, by)
    if confirmed_sha256 != state.to_confirm_sha256:
        raise ReviewRefused(
            "expected the checker to confirm what is recommended now, found the hash of something else; read the case"
            " again."
        )
    step = _step(state.record, "confirm", state.state, "closed", by, at, why)
    return Closed(
        case=state.case,
        record=(*state.record, step),
        makers=state.makers,
        checker=step.by,
        outcome=_outcome(state),
    )


def _outcome(state: AwaitingChecker) -> Approved | Declined:
    referred = state.case.referred
    match state.recommendation:
        case Grant(terms=terms):
            return Approved(
                terms=terms, conditions=referred.conditions, watch=referred.watch, reductions=referred.reductions
            )
        case Refuse(reasons=reasons):
            return Declined(reasons=reasons)


def _may_check(state: AwaitingChecker, by: str) -> None:
    if by in state.makers:
        raise ReviewRefused(
            f"expected a checker who recommended nothing in case {state.case.case_id}, found its maker; ask another"
            " person."
        )
    if by == state.case.brought_by:
        raise ReviewRefused(
            f"expected a checker who did not bring case {state.case.case_id} in, found the person who did; ask another"
            " person."
        )


def _no_better_than(terms: Terms, proposed: Terms) -> None:
    if terms.limit.currency != proposed.limit.currency or terms.limit.amount > proposed.limit.amount:
        raise ReviewRefused(f"expected a limit of at most {proposed.limit}, found {terms.limit}; lower it.")
    if terms.rate < proposed.rate:
        raise ReviewRefused(f"expected a rate of at least {proposed.rate}, found {terms.rate}; raise it.")
    if terms.tenor_days > proposed.tenor_days:
        raise ReviewRefused(f"expected at most {proposed.tenor_days} days, found {terms.tenor_days}; shorten it.")
    # Reserve per unit of the limit, multiplied out.
    held, due = (
        times(terms.reserve.amount, proposed.limit.amount),
        times(proposed.reserve.amount, terms.limit.amount),
    )
    if terms.reserve.currency != proposed.reserve.currency or held < due:
        raise ReviewRefused("expected at least the proposed share of the limit in reserve, found less; raise it.")


def _step(
    record: tuple[Transition, ...], step: str, before: str, after: str, by: str, at: dt.datetime, why: str
) -> Transition:
    return next_step(record, ReviewRefused, step=step, before=before, after=after, by=by, at=at, why=why)

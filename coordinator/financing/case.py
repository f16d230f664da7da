"""One application on its way to a decision, the decision, and the document that keeps both.

Everything here is pure: a case and a standing give one assessment, and a stored document gives the case back, so that
a decision can be taken again by the tables that made it.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from coordinator.decisions.records import DecisionRecord, Mode, StoredDecision
from coordinator.decisions.standing import Standing
from coordinator.financing.checks import Matched, checks_of, exposure_of, fingerprints_of
from coordinator.financing.requests import Applicant
from coordinator.financing.score_source import Scored
from coordinator.financing.today import Today
from policies.closed_model import ClosedModel
from policies.lending.decide import decide
from policies.lending.money import Money
from policies.lending.policy_set import PolicySet
from policies.lending.types import (
    Application,
    Approved,
    Checks,
    Decision,
    Declined,
    DoubleFinancing,
    Exposure,
    Id,
    Reason,
    Referred,
    Risk,
    Terms,
    Text,
    ThreeWayMatch,
)
from policies.screening.screen import Blocked, Cleared, PossibleMatch, Subject
from protos.sealed_sum.secret import SecretBytes

SCORE_MISSING = "SCORE_MISSING"
"""Reason of every decision without a score: it is in the code, since no table may waive it."""


class Party(ClosedModel):
    """Who asks, as the platform states it. Personal data: for reviewers and for screening, never for the ledger."""

    name: str
    country: str
    history_months: int | None
    prior_defaults: int

    @classmethod
    def of(cls, applicant: Applicant) -> Party:
        """Without features and grants, which have done their work."""
        return cls(
            name=applicant.name,
            country=applicant.country,
            history_months=applicant.history_months,
            prior_defaults=applicant.prior_defaults,
        )

    @property
    def subject(self) -> Subject:
        """Who is screened."""
        return Subject(names=(self.name,), countries=(self.country,))


class DecisionDocument(ClosedModel):
    """What is stored of a decision: all that entered, and what came out."""

    format: Literal["tallystick-decision/1"] = "tallystick-decision/1"
    requested_by: str
    party: Party
    application: Application
    risk: Risk
    score_missing: Text | None
    """Why there is no score; `risk` is then an assumption."""
    three_way: ThreeWayMatch
    members_double_financing: DoubleFinancing
    """What the members know of the documents; `clear` in released mode."""
    checks: Checks
    exposure: Exposure
    decision: Decision
    review: Annotated[Id | None, Field(description="The review that was opened")]

    @classmethod
    def of(cls, stored: StoredDecision) -> DecisionDocument:
        """Read what was stored."""
        return cls.model_validate_json(stored.record.document)


@dataclass(frozen=True)
class Case:
    """All that enters a decision but what the store knows.

    Attributes:
        party: Who asks.
        application: For what.
        scored: The risk.
        screening: What the lists say.
        matched: What the documents say.
        fingerprints: Of the documents that are lent against.
        today: The policy.
    """

    party: Party
    application: Application
    scored: Scored
    screening: Cleared | PossibleMatch | Blocked
    matched: Matched
    fingerprints: tuple[bytes, ...]
    today: Today

    @classmethod
    def of(
        cls, party: Party, application: Application, scored: Scored, matched: Matched, today: Today, key: SecretBytes
    ) -> Case:
        """Screen the party and name the documents.

        Raises:
            ScreeningRefused: A name with nothing in it to compare.
            PolicyRefused: The tables have no answer.
        """
        return cls(
            party=party,
            application=application,
            scored=scored,
            screening=today.screener.screen(party.subject),
            matched=matched,
            fingerprints=fingerprints_of(key, today, application),
            today=today,
        )

    @classmethod
    def again(cls, document: DecisionDocument, today: Today, key: SecretBytes) -> Case:
        """The case of a stored decision, to be judged by today's policy and lists."""
        return cls.of(
            document.party,
            document.application,
            Scored(document.risk, missing=document.score_missing),
            Matched(document.three_way, document.members_double_financing),
            today,
            key,
        )


@dataclass(frozen=True)
class Assessment:
    """What a case comes to on a standing.

    Attributes:
        standing: What was owed and lent against.
        checks: All checks.
        exposure: What was owed.
        decision: The decision.
    """

    standing: Standing
    checks: Checks
    exposure: Exposure
    decision: Decision


def assess(case: Case, standing: Standing) -> Assessment:
    """Decide on a case.

    Raises:
        PolicyRefused: A question that the tables have no answer for.
    """
    checks = checks_of(
        case.today,
        case.application,
        case.screening,
        case.matched,
        standing,
        history_months=case.party.history_months,
        prior_defaults=case.party.prior_defaults,
    )
    exposure = exposure_of(standing)
    decision = decided(case.today.policy, case.application, case.scored.risk, checks, exposure, case.scored.missing)
    return Assessment(standing, checks, exposure, decision)


def decided(
    policy: PolicySet, application: Application, risk: Risk, checks: Checks, exposure: Exposure, missing: str | None
) -> Decision:
    """The policy's decision; without a score it is never better than a referral.

    Args:
        policy: The tables.
        application: What is asked for.
        risk: What the score says, or is assumed.
        checks: The checks.
        exposure: What is owed.
        missing: Why there is no score.
    """
    decision = decide(policy, application, risk, checks, exposure)
    if missing is None:
        return decision
    if isinstance(decision.outcome, Declined):
        # Declined for what is not known is no decline: only what even the best score would not change.
        best = risk.model_copy(update={"pd_12m": Decimal(0), "reason_votes": ()})
        decision = decide(policy, application, best, checks, exposure)
    reason = Reason(code=SCORE_MISSING, text=missing)
    match decision.outcome:
        case Approved(terms=terms, conditions=conditions, watch=watch, reductions=reductions):
            outcome = Referred(
                reasons=(reason,), proposed=terms, conditions=conditions, watch=watch, reductions=reductions
            )
        case Referred() as referred:
            outcome = referred.model_copy(update={"reasons": (reason, *referred.reasons)})
        case Declined():  # for reasons that hold whatever the score
            return decision
    return decision.model_copy(update={"outcome": outcome})


def still_lends(case: Case, standing: Standing, limit: Money, *, approved_only: bool = False) -> str | None:
    """Why a limit that was proposed or offered before would not be granted today; None when it would.

    Args:
        case: The case.
        standing: What is owed and lent against now.
        limit: What was proposed or offered.
        approved_only: Whether a referral is too little: two people may overrule one, an offer may not.
    """
    outcome = assess(case, standing).decision.outcome
    if isinstance(outcome, Declined) or (approved_only and isinstance(outcome, Referred)):
        return ", ".join(reason.code for reason in outcome.reasons)
    terms = outcome.terms if isinstance(outcome, Approved) else outcome.proposed
    if terms.limit.currency == limit.currency and terms.limit.amount >= limit.amount:
        return None
    return f"at most {terms.limit} could be lent"


def record_of(
    case: Case,
    made: Assessment,
    *,
    decision_id: str,
    tenant: str,
    actor: str,
    mode: Mode,
    review: str | None,
    at: dt.datetime,
    status: str | None = None,
) -> tuple[DecisionDocument, DecisionRecord]:
    """The document and the record of a decision.

    Args:
        case: What entered.
        made: What came out.
        decision_id: Its id.
        tenant: Whose.
        actor: Who asked.
        mode: Where the score is from.
        review: Id of the review that is opened with it.
        at: When.
        status: Where it stands at first; the outcome's name unless given.
    """
    outcome = made.decision.outcome
    document = DecisionDocument(
        requested_by=actor,
        party=case.party,
        application=case.application,
        risk=case.scored.risk,
        score_missing=case.scored.missing,
        three_way=case.matched.three_way,
        members_double_financing=case.matched.double_financing,
        checks=made.checks,
        exposure=made.exposure,
        decision=made.decision,
        review=review,
    )
    terms = terms_of(made.decision)
    reasons = outcome.reductions if isinstance(outcome, Approved) else outcome.reasons
    return document, DecisionRecord(
        id=decision_id,
        tenant=tenant,
        applicant=case.application.applicant_id,
        product=case.application.product,
        amount=case.application.amount.amount,
        currency=case.application.amount.currency,
        tenor_days=case.application.tenor_days,
        outcome=outcome.outcome,
        reasons=tuple(reason.code for reason in reasons),
        rate=None if terms is None else terms.rate,
        policy_versions={one.table: one.version for one in made.decision.versions},
        model_version=case.scored.risk.model_version,
        mode=mode,
        inputs_hash=bytes.fromhex(made.decision.inputs_sha256),
        document=document.model_dump_json(),
        initial_status=status or outcome.outcome,
        created_at=at,
    )


def terms_of(decision: Decision) -> Terms | None:
    """The terms that are granted or proposed."""
    match decision.outcome:
        case Approved(terms=terms) | Referred(proposed=terms):
            return terms
        case Declined():
            return None

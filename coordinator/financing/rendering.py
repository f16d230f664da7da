"""From what is stored to what is answered."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import replace
from typing import Final, cast

from coordinator.decisions.records import (
    DecisionRecord,
    Review,
    StoredDecision,
    StoredOffer,
    Transition,
)
from coordinator.decisions.standing import FacilityRecord
from coordinator.financing.answers import (
    DecisionAnswer,
    DecisionView,
    Explanation,
    FacilityShown,
    LedgerShown,
    OfferAnswer,
    PolicyShown,
    ReviewAnswer,
    ScoreShown,
    TransitionShown,
)
from coordinator.financing.case import DecisionDocument, decided
from coordinator.financing.statuses import Status
from policies.lending.explain import explained
from policies.lending.money import Money
from policies.lending.policy_set import PolicySet
from policies.lending.types import Decision, Offer, Risk

THAW: Final = "thaw-"
"""Ids of reviews that may lift a freeze begin so."""
_LEDGER_END: Final = b'"ledger":{"entry":0}}'


def decision_answer(stored: StoredDecision, document: DecisionDocument | None = None) -> DecisionAnswer:
    """A decision as it was taken, and where it stands.

    Args:
        stored: From the store.
        document: Its document, if it was read already.
    """
    document = document or DecisionDocument.of(stored)
    return _answer(stored.record, document, stored.status, stored.entry)


def _answer(record: DecisionRecord, document: DecisionDocument, status: str, entry: int) -> DecisionAnswer:
    decision = document.decision
    return DecisionAnswer(
        id=record.id,
        status=cast("Status", status),
        outcome=decision.outcome,
        applicant=record.applicant,
        product=document.application.product,
        requested=document.application.amount,
        tenor_days=record.tenor_days,
        score=_score(document.risk, document.score_missing),
        checks=document.checks,
        policy=_policy(decision),
        mode=record.mode,
        decided_at=record.created_at,
        review=document.review,
        ledger=LedgerShown(entry=entry),
    )


def _score(risk: Risk, missing: str | None) -> ScoreShown:
    return ScoreShown(
        pd_12m=risk.pd_12m,
        points=risk.points,
        model_version=risk.model_version,
        degraded_roles=risk.degraded_roles,
        missing=missing,
    )


def _policy(decision: Decision) -> PolicyShown:
    return PolicyShown(
        sha256=decision.policy_sha256,
        decided_for=decision.decided_for.isoformat(),
        versions={one.table: one.version for one in decision.versions},
    )


def open_ended(record: DecisionRecord, document: DecisionDocument) -> bytes:
    """The answer of a decision that is about to be written, up to its ledger entry, which the transaction gives."""
    return _answer(record, document, record.initial_status, 0).model_dump_json().encode().removesuffix(_LEDGER_END)


def ended(rendered: bytes, entry: int) -> bytes:
    """The whole answer, once the entry is known."""
    return b'%b"ledger":{"entry":%d}}' % (rendered, entry)


def decision_view(
    stored: StoredDecision, transitions: Iterable[Transition], facility: FacilityRecord | None
) -> DecisionView:
    """A decision with what became of it."""
    answer = decision_answer(stored)
    return DecisionView(
        **{name: getattr(answer, name) for name in DecisionAnswer.model_fields},
        transitions=tuple(transition_shown(one) for one in transitions),
        facility=None if facility is None else facility_shown(facility),
    )


def transition_shown(transition: Transition) -> TransitionShown:
    """One step."""
    return TransitionShown(
        number=transition.number,
        before=cast("Status", transition.from_status),
        after=cast("Status", transition.to_status),
        actor=transition.actor,
        why=transition.why,
        at=transition.at,
        ledger=LedgerShown(entry=transition.entry),
    )


def facility_shown(facility: FacilityRecord) -> FacilityShown:
    """What may go out, and what is out."""
    left = facility.granted - facility.disbursed if facility.is_open and facility.watch != "frozen" else 0
    return FacilityShown(
        limit=Money.of(facility.granted, facility.currency),
        disbursed=Money.of(facility.disbursed, facility.currency),
        repaid=Money.of(facility.repaid, facility.currency),
        watch=facility.watch,
        available=Money.of(f"{left:f}", facility.currency),
    )


def offer_answer(stored: StoredOffer, now: dt.datetime) -> OfferAnswer:
    """An offer; one that is past its day is shown as expired, whoever has written that down."""
    record = stored.record
    offer = Offer.model_validate_json(record.document)
    status = "expired" if stored.status == "open" and record.expires_at <= now else stored.status
    return OfferAnswer(
        id=record.id,
        status=status,
        applicant=record.applicant,
        product=offer.decision.product,
        terms=offer.terms,
        conditions=offer.conditions,
        decision=record.decision_id,
        event=record.event_id,
        made_at=record.created_at,
        expires_at=record.expires_at,
        ledger=LedgerShown(entry=stored.entry),
    )


def review_answer(review: Review, status: str, to_confirm: str | None) -> ReviewAnswer:
    """A review, with what a confirmation has to name."""
    return ReviewAnswer(
        id=review.id,
        decision=review.decision_id,
        status=review.status,
        about="freeze" if review.id.startswith(THAW) else "referral",
        why=review.why,
        opened_at=review.opened_at,
        maker=review.maker,
        maker_verdict=review.maker_verdict,
        maker_why=review.maker_why,
        checker=review.checker,
        checker_verdict=review.checker_verdict,
        checker_why=review.checker_why,
        to_confirm=to_confirm,
        decision_status=cast("Status", status),
    )


def explanation(stored: StoredDecision, archive: PolicySet | None) -> Explanation:
    """A decision in words, and whether the archived tables still come to it.

    Args:
        stored: The decision.
        archive: The policy that is kept under its hash, if it is.
    """
    document = DecisionDocument.of(stored)
    decision = document.decision
    replayed = False
    if archive is not None and archive.sha256 == decision.policy_sha256:
        policy = replace(archive, date=decision.decided_for)
        again = decided(
            policy, document.application, document.risk, document.checks, document.exposure, document.score_missing
        )
        replayed = again == decision
    return Explanation(
        id=stored.record.id, policy_sha256=decision.policy_sha256, lines=explained(decision), replayed=replayed
    )

"""What clients report: a settled payment, which may make an offer by itself, and signals about money that is out."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Hashable
from dataclasses import replace

from coordinator.decisions.records import InboundEvent, OfferRecord, Response
from coordinator.decisions.standing import Standing
from coordinator.decisions.writes import DecisionWrites
from coordinator.financing.answers import EventAnswer
from coordinator.financing.case import (
    SCORE_MISSING,
    Assessment,
    Case,
    Party,
    decided,
    record_of,
)
from coordinator.financing.checks import Matched, checks_of, exposure_of
from coordinator.financing.facilities import observe, repay
from coordinator.financing.means import Means
from coordinator.financing.rendering import offer_answer
from coordinator.financing.requests import PaymentSettled, RateChange, Refund, Shipment
from coordinator.financing.today import Today
from policies.lending.money import Money
from policies.lending.offers import application_for, assess_settlement
from policies.lending.types import Application, Evidence, NoOffer, Offer, Reason, Settlement

CREATED, KNOWN = 201, 200
_NEEDS_NO_MATCH = Matched("not_required")


async def take_in(
    means: Means,
    tenant: str,
    actor: str,
    event: PaymentSettled | Shipment | Refund | RateChange,
    *,
    key: str,
    request_hash: bytes,
) -> Response:
    """Take in what happened; see `Financing.event`."""
    if isinstance(event, PaymentSettled):
        return await _settled(means, tenant, actor, event, key=key, request_hash=request_hash)
    today = await means.today()
    endpoints = await means.notices.endpoints(tenant)
    event_id, thaw_id = means.store.new_id("evt"), means.store.new_id("thaw")

    def work(writes: DecisionWrites) -> Response:
        writes.decision(tenant, event.decision_id)
        inbound = _inbound(event, event_id, tenant, means.clock(), decision_id=event.decision_id)
        known = writes.add_event(inbound)
        if known is not None:
            return _answered(KNOWN, EventAnswer(id=known.id, source_id=event.id, kind=event.kind, repeated=True))
        seen = observe(writes, today.policy, tenant, event.decision_id, event.signal(), actor=actor, thaw_id=thaw_id)
        response = _answered(CREATED, EventAnswer(id=event_id, source_id=event.id, kind=event.kind, observed=seen))
        if seen.action != "none":
            means.notices.tell_moved(writes, endpoints, event.decision_id, seen.status, seen.text)
        return response

    return await means.store.once(tenant, key, request_hash, work)


async def _settled(
    means: Means, tenant: str, actor: str, event: PaymentSettled, *, key: str, request_hash: bytes
) -> Response:
    """A settled payment: it pays back, if it does, and then triggers an offer, or a reason why not."""
    known = await asyncio.to_thread(means.store.answered, tenant, key, request_hash)
    if known is not None:
        return known
    today = await means.today()
    scored = await means.scores.risk(event.applicant)
    settlement = Settlement(
        settlement_id=event.id,
        applicant_id=event.applicant.id,
        amount=Money(amount=event.amount, currency=event.currency),
        industry=event.industry,
    )
    party = Party.of(event.applicant)
    case = Case.of(party, _as_application(today, settlement), scored, _NEEDS_NO_MATCH, today, means.evidence_key)
    endpoints = await means.notices.endpoints(tenant)
    event_id, decision_id, offer_id = (means.store.new_id(prefix) for prefix in ("evt", "dec", "off"))
    now = means.clock()
    keys: list[Hashable] = [(tenant, event.applicant.id), *case.fingerprints]

    def work(writes: DecisionWrites) -> Response:
        inbound = _inbound(event, event_id, tenant, now, applicant=event.applicant.id, decision_id=event.repays)
        before = writes.add_event(inbound)
        if before is not None:
            made_before = writes.offer_of_event(tenant, before.id)
            return _answered(
                KNOWN,
                EventAnswer(
                    id=before.id,
                    source_id=event.id,
                    kind=event.kind,
                    repeated=True,
                    offer=None if made_before is None else offer_answer(made_before, now),
                ),
            )
        answer = EventAnswer(id=event_id, source_id=event.id, kind=event.kind)
        if event.repays is not None:
            after = repay(writes, tenant, event.repays, settlement.amount, actor=actor, source_id=event.id)
            means.notices.tell_moved(writes, endpoints, event.repays, after, f"{settlement.amount} paid back")
            answer = answer.model_copy(update={"repaid": settlement.amount})
        standing = writes.standing(tenant, event.applicant.id, case.fingerprints)
        found = _triggered(case, settlement, standing)
        if isinstance(found, NoOffer):
            return _answered(CREATED, answer.model_copy(update={"no_offer": found.reasons}))
        offer, application, made = found
        _, record = record_of(
            replace(case, application=application),
            made,
            decision_id=decision_id,
            tenant=tenant,
            actor=actor,
            mode=means.scores.mode,
            review=None,
            at=now,
            status="offered",
        )
        decision = writes.add_decision(record, survivors=scored.survivors, degraded=scored.degraded)
        stored = writes.add_offer(_offer_record(offer, offer_id, tenant, decision_id, event_id, now), decision)
        shown = offer_answer(stored, now)
        means.notices.tell(writes, endpoints, "offer.created", shown.model_dump_json().encode())
        return _answered(CREATED, answer.model_copy(update={"offer": shown}))

    with means.crowd.joined(keys):
        return await means.store.once(tenant, key, request_hash, work)


def _triggered(
    case: Case, settlement: Settlement, standing: Standing
) -> NoOffer | tuple[Offer, Application, Assessment]:
    """The offer, the application that it stands for and how that was decided; or why there is none."""
    scored, policy = case.scored, case.today.policy
    if scored.missing is not None:
        return NoOffer(reasons=(Reason(code=SCORE_MISSING, text=scored.missing),))
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
    offer = assess_settlement(policy, settlement, scored.risk, checks, exposure)
    if isinstance(offer, NoOffer):
        return offer
    application = application_for(policy, settlement, scored.risk, checks)
    if isinstance(application, NoOffer):
        return application
    decision = decided(policy, application, scored.risk, checks, exposure, None)
    return offer, application, Assessment(standing, checks, exposure, decision)


def _offer_record(
    offer: Offer, offer_id: str, tenant: str, decision_id: str, event_id: str, now: dt.datetime
) -> OfferRecord:
    limit = offer.terms.limit
    return OfferRecord(
        id=offer_id,
        tenant=tenant,
        applicant=offer.applicant_id,
        product=offer.decision.product,
        amount=limit.amount,
        currency=limit.currency,
        tenor_days=offer.terms.tenor_days,
        rate=offer.terms.rate,
        decision_id=decision_id,
        event_id=event_id,
        document=offer.model_dump_json(),
        created_at=now,
        expires_at=dt.datetime.combine(offer.valid_until + dt.timedelta(days=1), dt.time(), dt.UTC),
    )


def _inbound(
    event: PaymentSettled | Shipment | Refund | RateChange,
    event_id: str,
    tenant: str,
    now: dt.datetime,
    *,
    applicant: str | None = None,
    decision_id: str | None = None,
) -> InboundEvent:
    """The event as it is kept: without the applicant's name, features and grant, which may differ the next time."""
    return InboundEvent(
        id=event_id,
        tenant=tenant,
        source_id=event.id,
        kind=event.kind,
        applicant=applicant,
        decision_id=decision_id,
        document=json.dumps(
            event.model_dump(mode="json", exclude={"applicant"}) | {"applicant": applicant},
            sort_keys=True,
            separators=(",", ":"),
        ),
        occurred_at=event.occurred_at,
        received_at=now,
    )


def _answered(status: int, answer: EventAnswer) -> Response:
    return Response(status=status, body=answer.model_dump_json().encode())


def _as_application(today: Today, settlement: Settlement) -> Application:
    """What the settlement is at most: it is screened and rated by that."""
    kind = today.evidence_kind("order")
    return Application(
        applicant_id=settlement.applicant_id,
        product="order",
        amount=settlement.amount,
        tenor_days=1,
        industry=settlement.industry,
        evidence=(Evidence(kind=kind, reference=settlement.settlement_id, value=settlement.amount),),
    )

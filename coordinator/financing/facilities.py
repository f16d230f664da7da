"""What happens to money that may go out, or is out: instalments, repayments, signals, and the end of a freeze."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from coordinator.decisions.errors import StatusConflict
from coordinator.decisions.records import Response, StoredDecision
from coordinator.decisions.standing import FacilityRecord
from coordinator.decisions.writes import DecisionWrites
from coordinator.financing.answers import DisbursementAnswer, ObservedShown
from coordinator.financing.case import DecisionDocument
from coordinator.financing.errors import NotDisbursable
from coordinator.financing.means import Means, move
from coordinator.financing.rendering import facility_shown
from coordinator.financing.requests import DisbursementRequest
from coordinator.financing.statuses import MONEY_MAY_BE_OUT
from policies.lending import watch
from policies.lending.money import Money
from policies.lending.policy_set import PolicySet
from policies.screening.screen import Screener

SERVICE = "service"
"""Who takes a step in the watch's own terms; the transition names the client."""


def as_watched(facility: FacilityRecord) -> watch.Facility:
    """A facility as the watch takes it; its record is the decision's transitions."""
    return watch.Facility(
        facility_id=facility.decision_id,
        industry=facility.industry,
        limit=Money.of(facility.granted, facility.currency),
        disbursed=Money.of(facility.disbursed, facility.currency),
        status=facility.watch,
    )


def open_facility_of(writes: DecisionWrites, tenant: str, decision_id: str) -> tuple[StoredDecision, FacilityRecord]:
    """A decision under which money may go out, and the facility.

    Raises:
        DecisionUnknown: The tenant has no such decision.
        StatusConflict: It is not one that money may be out under.
    """
    stored = writes.decision(tenant, decision_id)
    facility = writes.facility(tenant, decision_id)
    if facility is None or not facility.is_open or stored.status not in MONEY_MAY_BE_OUT:
        raise StatusConflict(decision_id, expected=" or ".join(sorted(MONEY_MAY_BE_OUT)), found=stored.status)
    return stored, facility


async def disburse(
    means: Means,
    tenant: str,
    actor: str,
    decision_id: str,
    request: DisbursementRequest,
    *,
    key: str,
    request_hash: bytes,
) -> Response:
    """Pay out a part of what is available; see `Financing.disburse`."""
    today = await means.today()
    stored = await asyncio.to_thread(means.store.decision, tenant, decision_id)
    # The party is screened again: a list may have changed since the decision.
    blocked = stored is not None and _is_blocked(today.screener, DecisionDocument.of(stored))
    endpoints = await means.notices.endpoints(tenant)

    def work(writes: DecisionWrites) -> Response:
        now, facility = open_facility_of(writes, tenant, decision_id)
        if blocked:
            raise NotDisbursable(
                f"Decision {decision_id}: expected a party that is on no sanctions list, found that it is on one now;"
                " nothing is paid out."
            )
        try:
            watch.disburse(as_watched(facility), request.money, by=SERVICE, at=writes.now, why=request.why)
        except watch.WatchRefused as problem:
            raise NotDisbursable(f"Decision {decision_id}: {problem}") from None
        facility = writes.change_facility(facility, disbursed=facility.disbursed + request.amount)
        after = "disbursed" if now.status == "approved" else now.status
        why = f"{request.money} paid out: {request.why}"
        move(writes, tenant, decision_id, before=now.status, after=after, actor=actor, why=why)
        answer = DisbursementAnswer.model_validate(
            {"decision": decision_id, "status": after, "facility": facility_shown(facility)}
        )
        body = answer.model_dump_json().encode()
        means.notices.tell_moved(writes, endpoints, decision_id, after, why)
        return Response(status=200, body=body)

    return await means.store.once(tenant, key, request_hash, work)


def _is_blocked(screener: Screener, document: DecisionDocument) -> bool:
    return screener.screen(document.party.subject).verdict == "blocked"


def repay(writes: DecisionWrites, tenant: str, decision_id: str, amount: Money, *, actor: str, source_id: str) -> str:
    """Take a repayment in: what is paid back is no longer owed.

    Returns:
        Where the decision stands now.

    Raises:
        DecisionUnknown: The tenant has no such decision.
        StatusConflict: It is not one that money may be out under.
        NotDisbursable: More is paid back than is out, or in another currency.
    """
    stored, facility = open_facility_of(writes, tenant, decision_id)
    due = facility.disbursed - facility.repaid
    if amount.currency != facility.currency or amount.amount > due:
        raise NotDisbursable(
            f"Decision {decision_id}: expected a repayment of at most {due:f} {facility.currency}, found {amount};"
            " correct it."
        )
    repaid = facility.repaid + amount.amount
    whole = repaid == facility.disbursed == facility.granted
    writes.change_facility(facility, repaid=repaid, is_open=not whole)
    after = "repaid" if whole else stored.status
    why = f"{amount} paid back by event {source_id}"
    move(writes, tenant, decision_id, before=stored.status, after=after, actor=actor, why=why)
    return after


def observe(
    writes: DecisionWrites,
    policy: PolicySet,
    tenant: str,
    decision_id: str,
    signal: watch.LateShipment | watch.RefundSpike | watch.RateMove,
    *,
    actor: str,
    thaw_id: str,
) -> ObservedShown:
    """Take a signal in: it warns, freezes what is not disbursed, or says nothing.

    Args:
        writes: The transaction.
        policy: Its table `watch` decides.
        tenant: Whose.
        decision_id: Which decision.
        signal: What happened.
        actor: Who reports it.
        thaw_id: Id of the review that is opened when this freezes: two people may lift it.

    Raises:
        DecisionUnknown: The tenant has no such decision.
        StatusConflict: It is not one that money may be out under.
    """
    stored, facility = open_facility_of(writes, tenant, decision_id)
    seen = watch.observe(policy, as_watched(facility), signal, by=SERVICE, at=writes.now)
    after = stored.status
    if seen.action != "none":
        after = seen.facility.status
        why = f"{seen.code}: {seen.text}"
        move(writes, tenant, decision_id, before=stored.status, after=after, actor=actor, why=why)
        writes.change_facility(facility, watch=seen.facility.status)
        if after == "frozen" and facility.watch != "frozen":
            writes.open_review(thaw_id, tenant, decision_id, why)
    return ObservedShown.model_validate({"action": seen.action, "code": seen.code, "text": seen.text, "status": after})


def thaw(writes: DecisionWrites, tenant: str, decision_id: str, *, asked_by: str, confirmed_by: str, why: str) -> str:
    """End a freeze that two people lift; where the decision stands then.

    Raises:
        StatusConflict: It is not frozen.
        WatchRefused: One person for both.
    """
    stored, facility = open_facility_of(writes, tenant, decision_id)
    watch.lift(as_watched(facility), asked_by=asked_by, confirmed_by=confirmed_by, at=writes.now, why=why)
    after = "disbursed" if facility.disbursed > Decimal(0) else "approved"
    move(writes, tenant, decision_id, before=stored.status, after=after, actor=confirmed_by, why=why)
    writes.change_facility(facility, watch="active")
    return after

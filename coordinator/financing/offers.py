"""Accepting a pre-approved offer, and what becomes of one that is past its day."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from coordinator.decisions.errors import OfferClosed
from coordinator.decisions.records import Response
from coordinator.decisions.writes import DecisionWrites
from coordinator.financing.case import Case, DecisionDocument, still_lends
from coordinator.financing.deciding import lend
from coordinator.financing.errors import OfferNoLongerHolds, OfferUnknown
from coordinator.financing.means import Means, move
from coordinator.financing.rendering import offer_answer
from policies.lending.money import Money


class _PastItsDay(Exception):
    """Found within a transaction, which then writes nothing: the end is written in one of its own."""


async def accept(means: Means, tenant: str, actor: str, offer_id: str, *, key: str, request_hash: bytes) -> Response:
    """Accept an offer; see `Financing.accept_offer`.

    What was offered is judged again by today's policy and lists and by what is owed now: an offer reserves no room.
    """
    known = await asyncio.to_thread(means.store.answered, tenant, key, request_hash)
    if known is not None:
        return known
    offer = await asyncio.to_thread(means.store.offer, tenant, offer_id)
    if offer is None:
        raise OfferUnknown(offer_id)
    decision_id = offer.record.decision_id
    stored = await asyncio.to_thread(means.store.decision, tenant, decision_id)
    if stored is None:
        raise OfferUnknown(offer_id)
    today = await means.today()
    case = Case.again(DecisionDocument.of(stored), today, means.evidence_key)
    limit = Money.of(offer.record.amount, offer.record.currency)
    endpoints = await means.notices.endpoints(tenant)
    keys: list[Hashable] = [(tenant, offer.record.applicant), *case.fingerprints]

    def work(writes: DecisionWrites) -> Response:
        if writes.open_offer(tenant, offer_id).record.expires_at <= writes.now:
            raise _PastItsDay
        standing = writes.standing(tenant, offer.record.applicant, case.fingerprints)
        problem = still_lends(case, standing, limit, approved_only=True)
        if problem is not None:
            raise OfferNoLongerHolds(
                f"Offer {offer_id}: expected it to hold on the day it is accepted, found that it does not any more"
                f" ({problem}); apply for financing instead."
            )
        move(writes, tenant, decision_id, before="offered", after="approved", actor=actor, why="the offer was accepted")
        accepted = writes.close_offer(tenant, offer_id, "accepted")
        lend(writes, case, standing, limit, tenant, decision_id)
        body = offer_answer(accepted, writes.now).model_dump_json().encode()
        means.notices.tell(writes, endpoints, "offer.accepted", body)
        return Response(status=200, body=body)

    try:
        with means.crowd.joined(keys):
            return await means.store.once(tenant, key, request_hash, work)
    except _PastItsDay:
        await _expire(means, tenant, offer_id, decision_id)
        raise OfferClosed(offer_id) from None


async def _expire(means: Means, tenant: str, offer_id: str, decision_id: str) -> None:
    """Write down that an offer is past its day, unless somebody has."""
    endpoints = await means.notices.endpoints(tenant)

    def work(writes: DecisionWrites) -> None:
        expired = writes.close_offer(tenant, offer_id, "expired")
        why = "the offer was not accepted by its last day"
        move(writes, tenant, decision_id, before="offered", after="expired", actor="policy", why=why)
        body = offer_answer(expired, writes.now).model_dump_json().encode()
        means.notices.tell(writes, endpoints, "offer.expired", body)

    await means.store.commit(work)

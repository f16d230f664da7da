"""`decide`: an application to a decision, its ledger entry, its answer and its webhooks, all or nothing.

The plan, repeated by number in the code:

1. what does not depend on what others write meanwhile: policy of the day, score, screening, documents;
2. a decision on what the applicant probably owes;
3. in the transaction: what it really owes, and which documents are lent against; where that is something else, the
   decision is taken again;
4. the decision with its entry, the money that may go out, the review of a referral, the webhooks, the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass
from decimal import Decimal

from coordinator.decisions.records import DecisionRecord, Response
from coordinator.decisions.standing import FacilityRecord, Standing
from coordinator.decisions.writes import DecisionWrites
from coordinator.financing.case import Assessment, Case, Party, assess, record_of
from coordinator.financing.means import Means
from coordinator.financing.rendering import ended, open_ended
from coordinator.financing.requests import DecisionRequest
from policies.lending.money import Money
from policies.lending.types import Approved, Referred

CREATED = 201


@dataclass(frozen=True)
class _Prepared:
    made: Assessment
    record: DecisionRecord
    answer: bytes
    review: str | None


async def decide(
    means: Means, tenant: str, actor: str, request: DecisionRequest, *, key: str, request_hash: bytes
) -> Response:
    """Decide on an application; see `Financing.decide`."""
    if means.scores.mode == "federated":  # the members' budgets are not charged again for a repetition
        known = await asyncio.to_thread(means.store.answered, tenant, key, request_hash)
        if known is not None:
            return known

    # 1. What does not depend on others.
    today = await means.today()
    scored = await means.scores.risk(request.applicant)
    matched = await means.scores.matched(request)
    application = request.application()
    case = Case.of(Party.of(request.applicant), application, scored, matched, today, means.evidence_key)
    endpoints = await means.notices.endpoints(tenant)
    decision_id, at = means.store.new_id("dec"), means.clock()

    # 2. On what is probably owed.
    def prepared(standing: Standing) -> _Prepared:
        made = assess(case, standing)
        review = means.store.new_id("rev") if isinstance(made.decision.outcome, Referred) else None
        document, record = record_of(
            case,
            made,
            decision_id=decision_id,
            tenant=tenant,
            actor=actor,
            mode=means.scores.mode,
            review=review,
            at=at,
        )
        return _Prepared(made, record, open_ended(record, document), review)

    applicant = application.applicant_id
    guessed = prepared(means.guess(tenant, applicant))
    keys: list[Hashable] = [(tenant, applicant), *case.fingerprints]
    after: Standing | None = None

    def work(writes: DecisionWrites) -> Response:
        nonlocal after
        # 3. On what is really owed.
        standing = writes.standing(tenant, applicant, case.fingerprints, crowded=means.crowd.at(keys))
        ready = guessed if guessed.made.standing == standing else prepared(standing)
        # 4. All or nothing.
        stored = writes.add_decision(ready.record, survivors=scored.survivors, degraded=scored.degraded)
        after = standing
        match ready.made.decision.outcome:
            case Approved(terms=terms):
                after = lend(writes, case, standing, terms.limit, tenant, decision_id)
            case Referred(reasons=reasons) if ready.review is not None:
                writes.open_review(ready.review, tenant, decision_id, ", ".join(reason.code for reason in reasons))
        answer = ended(ready.answer, stored.entry)
        means.notices.tell(writes, endpoints, "decision.created", answer)
        return Response(status=CREATED, body=answer, headers={"Location": f"/v1/decisions/{decision_id}"})

    with means.crowd.joined(keys):
        response = await means.store.once(tenant, key, request_hash, work)
    if after is not None and not response.replayed:
        means.remember(tenant, applicant, after)
    return response


def lend(
    writes: DecisionWrites, case: Case, standing: Standing, limit: Money, tenant: str, decision_id: str
) -> Standing:
    """Open the facility of a decision that is approved now, and claim its documents.

    Args:
        writes: The transaction.
        case: What was decided on.
        standing: As it was when it was decided.
        limit: What may go out.
        tenant: Whose.
        decision_id: Which decision.

    Returns:
        The standing afterwards.
    """
    facility = FacilityRecord(
        decision_id=decision_id,
        tenant=tenant,
        applicant=case.application.applicant_id,
        number=standing.number + 1,
        industry=case.application.industry,
        currency=limit.currency,
        granted=limit.amount,
    )
    writes.lend(facility, case.fingerprints, standing)
    owed = dict(standing.owed)
    owed[limit.currency] = owed.get(limit.currency, Decimal(0)) + limit.amount
    return Standing(facility.number, tuple(sorted(owed.items())))

"""Pay-triggered finance: a settled payment triggers a pre-approved offer by itself, or a reason why it does not.

An offer is a decision like any other, on an application that the settlement makes: a share of what was settled, with
the settlement as its evidence. So every cap, check and refusal of an application holds for an offer too.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Literal

from policies.decision_tables.errors import PolicyRefused
from policies.decision_tables.table import Row
from policies.lending.decide import decide
from policies.lending.exchange import Exchange
from policies.lending.money import times
from policies.lending.policy_set import Inquiry, PolicySet
from policies.lending.reasons import policy_reason
from policies.lending.types import (
    Application,
    Approved,
    Checks,
    Declined,
    Evidence,
    Exposure,
    NoOffer,
    Offer,
    Referred,
    Risk,
    Settlement,
)

NOT_FORESEEN = "OFFER_NOT_FORESEEN"
SETTLED_TOO_LITTLE = "OFFER_SETTLED_TOO_LITTLE"
NOT_APPROVED = "OFFER_NOT_APPROVED"
CODES = (NOT_FORESEEN, SETTLED_TOO_LITTLE, NOT_APPROVED)

_PRODUCT: Literal["order"] = "order"


def offer_for_settlement(
    policy: PolicySet, settlement: Settlement, risk: Risk, checks: Checks, exposure: Exposure
) -> Offer | None:
    """The offer that a settled payment triggers, if any; `assess_settlement` also says why there is none."""
    found = assess_settlement(policy, settlement, risk, checks, exposure)
    return found if isinstance(found, Offer) else None


def assess_settlement(
    policy: PolicySet, settlement: Settlement, risk: Risk, checks: Checks, exposure: Exposure
) -> Offer | NoOffer:
    """What a settled payment triggers.

    Only what would be approved without anybody looking at it is offered: a referral is no offer.

    Args:
        policy: The tables in force.
        settlement: The payment.
        risk: What the score says now.
        checks: The checks of the seller; `three_way_match` is that of the settled order.
        exposure: What the seller owes already.

    Raises:
        PolicyRefused: A currency without a rate, or an amount that is no whole number of minor units.
    """
    inquiry = Inquiry(policy)
    application = _application(inquiry, settlement, risk, checks)
    if isinstance(application, NoOffer):
        return application
    decision = decide(policy, application, risk, checks, exposure)
    match decision.outcome:
        case Approved() as approved:
            row = _row(Inquiry(policy), settlement, risk, checks)
            return Offer(
                settlement_id=settlement.settlement_id,
                applicant_id=settlement.applicant_id,
                terms=approved.terms,
                conditions=approved.conditions,
                made_for=policy.date,
                valid_until=_valid_until(policy.date, row.number("valid_days")),
                decision=decision.model_copy(update={"trace": (*inquiry.trace, *decision.trace)}),
            )
        case Referred(reasons=reasons) | Declined(reasons=reasons):
            return NoOffer(reasons=(policy_reason(inquiry, NOT_APPROVED), *reasons))


def application_for(policy: PolicySet, settlement: Settlement, risk: Risk, checks: Checks) -> Application | NoOffer:
    """The application that a settlement makes by itself, or why it makes none."""
    return _application(Inquiry(policy), settlement, risk, checks)


def _application(inquiry: Inquiry, settlement: Settlement, risk: Risk, checks: Checks) -> Application | NoOffer:
    currency = Exchange(inquiry).checked(settlement.amount)
    row = _row(inquiry, settlement, risk, checks)
    if not row.flag("offered"):
        return NoOffer(reasons=(policy_reason(inquiry, NOT_FORESEEN),))
    if currency.in_cny_down(settlement.amount.amount) < row.number("minimum_settled"):
        return NoOffer(reasons=(policy_reason(inquiry, SETTLED_TOO_LITTLE),))
    amount = currency.money_down(times(row.number("share"), settlement.amount.amount))
    if not amount.amount:
        return NoOffer(reasons=(policy_reason(inquiry, SETTLED_TOO_LITTLE),))
    kind = inquiry.one("product", product=_PRODUCT).text("evidence_kind")
    return Application(
        applicant_id=settlement.applicant_id,
        product=_PRODUCT,
        amount=amount,
        tenor_days=int(row.number("tenor_days")),
        industry=settlement.industry,
        evidence=(Evidence(kind=kind, reference=settlement.settlement_id, value=settlement.amount),),
    )


def _row(inquiry: Inquiry, settlement: Settlement, risk: Risk, checks: Checks) -> Row:
    return inquiry.one("offer", customer_risk=checks.customer_risk, industry=settlement.industry, pd_12m=risk.pd_12m)


def _valid_until(date: dt.date, days: Decimal) -> dt.date:
    try:
        return date + dt.timedelta(days=int(days) - 1)
    except OverflowError:
        raise PolicyRefused(f"expected a day in the calendar, found {days} days after {date}; correct it.") from None

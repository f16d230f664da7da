"""The risk rating of a customer, from a table: jurisdiction, product, history and amount."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import Field

from policies.closed_model import ClosedModel
from policies.lending.catalogue import RATINGS
from policies.lending.exchange import Exchange
from policies.lending.money import Money
from policies.lending.policy_set import Inquiry, PolicySet
from policies.lending.reasons import policy_reason
from policies.lending.types import Product, Rating, Reason, TraceRow, Verdict
from policies.screening.screen import Blocked, Cleared, JurisdictionHit, PossibleMatch


class CustomerFacts(ClosedModel):
    """What is known of a customer."""

    jurisdiction: Verdict
    """Severest verdict over its jurisdictions: `jurisdiction_verdict`."""
    product: Product
    history_months: Annotated[int, Field(ge=0, le=1200)] | None
    """Months of history on the platform; None when unknown, which counts as none."""
    prior_defaults: Annotated[int, Field(ge=0, le=1000)]
    amount: Money
    """What is asked for, with what is owed already."""


class CustomerRating(ClosedModel):
    """Low, medium or high, and why."""

    rating: Rating
    reasons: tuple[Reason, ...]
    """Of every row that holds; none for low."""
    trace: tuple[TraceRow, ...]


def rate_customer(policy: PolicySet, facts: CustomerFacts) -> CustomerRating:
    """The highest rating of all rows that hold; low when none does.

    Raises:
        PolicyRefused: A currency without a rate.
    """
    inquiry = Inquiry(policy)
    amount_cny = Exchange(inquiry).checked(facts.amount).in_cny_up(facts.amount.amount)
    rows = inquiry.every(
        "customer_risk",
        jurisdiction=facts.jurisdiction,
        product=facts.product,
        history_months=Decimal(facts.history_months or 0),
        prior_defaults=Decimal(facts.prior_defaults),
        amount_cny=amount_cny,
    )
    rating = max((row.text("rating") for row in rows), key=RATINGS.index, default=RATINGS[0])
    reasons = tuple(policy_reason(inquiry, code) for code in dict.fromkeys(row.text("code") for row in rows))
    return CustomerRating.model_validate({"rating": rating, "reasons": reasons, "trace": inquiry.trace})


def jurisdiction_verdict(screening: Cleared | PossibleMatch | Blocked) -> Verdict:
    """The severest verdict over the jurisdictions of a screening."""
    found: Verdict = "clear"
    for hit in () if isinstance(screening, Cleared) else screening.hits:
        if isinstance(hit, JurisdictionHit) and hit.verdict != "clear" and found != "blocked":
            found = hit.verdict
    return found

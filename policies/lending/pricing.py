"""The arithmetic of a decision: expected loss, rate, limit and reserve, exact in decimals, factors from the tables.

Whatever is rounded is rounded against the applicant's favour by less than one minor unit or basis point: limits down,
loss, margin and reserve up. So a limit never exceeds a cap, in any currency.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from policies.decision_tables.errors import PolicyRefused
from policies.lending.exchange import Currency, Exchange
from policies.lending.money import MAX_PLACES, Money, minus, plus, round_down, round_up, times
from policies.lending.policy_set import Inquiry, PolicySet
from policies.lending.types import ExpectedLoss, Terms

RATE_PLACES = 4
"""Rates are whole basis points."""


@dataclass(frozen=True)
class Ceiling:
    """How much the policy lends, and what holds it down.

    Attributes:
        by_evidence: Advance rate times the value of the evidence, in the currency of the application.
        by_cap: What the product's cap leaves after all that is outstanding, in the same currency.
        factor: What risk and missing roles leave of the smaller of the two, in [0, 1].
    """

    by_evidence: Decimal
    by_cap: Decimal
    factor: Decimal

    @property
    def before_risk(self) -> Decimal:
        """The smaller of the two."""
        return min(self.by_evidence, self.by_cap)

    def limit(self, requested: Decimal, currency: Currency) -> Decimal:
        """What is lent of what was asked for, in whole minor units."""
        return min(requested, round_down(times(self.factor, self.before_risk), currency.minor_digits))


def ceiling_of(
    *,
    advance_rate: Decimal,
    evidence: Decimal,
    cap_cny: Decimal,
    owed_cny: Decimal,
    factor: Decimal,
    currency: Currency,
) -> Ceiling:
    """The ceiling of one application.

    Args:
        advance_rate: Share of the evidence's value that is lent at most.
        evidence: Value of the evidence, in the currency of the application.
        cap_cny: The product's cap, in the policy's currency.
        owed_cny: All that is outstanding, in the policy's currency, rounded up.
        factor: What risk leaves, in [0, 1].
        currency: The currency of the application.
    """
    headroom = max(minus(cap_cny, owed_cny), Decimal(0))
    return Ceiling(
        by_evidence=round_down(times(advance_rate, evidence), currency.minor_digits),
        by_cap=currency.from_cny_down(headroom),
        factor=factor,
    )


def expected_loss_rate(pd_12m: Decimal, lgd: Decimal, ead_factor: Decimal) -> Decimal:
    """PD x LGD x EAD a year and a unit of the limit, rounded up to twelve places."""
    return round_up(times(pd_12m, lgd, ead_factor), MAX_PLACES)


def price(
    inquiry: Inquiry,
    *,
    limit: Money,
    currency: Currency,
    pd_12m: Decimal,
    lgd: Decimal,
    ead_factor: Decimal,
    rate_floor: Decimal,
    rate_ceiling: Decimal,
    reserve_rate: Decimal,
    tenor_days: int,
) -> Terms:
    """Terms for a limit: the base rate by expected loss, within the product's bounds, plus a margin that covers it.

    Raises:
        PolicyRefused: The tables lead to more than 100 % a year.
    """
    loss_rate = expected_loss_rate(pd_12m, lgd, ead_factor)
    row = inquiry.one("rate", expected_loss_rate=loss_rate)
    base = min(max(row.number("base_rate"), rate_floor), rate_ceiling)
    margin = round_up(times(row.number("margin_multiplier"), loss_rate), RATE_PLACES)
    rate = plus(base, margin)
    if rate > 1:
        raise PolicyRefused(
            f"table 'rate' of {inquiry.policy.date}: expected a rate of at most 100 % a year, found"
            f" {times(rate, Decimal(100)):f} % for an expected loss of {loss_rate}; correct the table."
        )
    return Terms(
        limit=limit,
        rate=rate,
        base_rate=base,
        margin=margin,
        reserve=currency.money_up(times(reserve_rate, limit.amount)),
        tenor_days=tenor_days,
        expected_loss=ExpectedLoss(
            pd_12m=pd_12m,
            lgd=lgd,
            ead=currency.money_up(times(ead_factor, limit.amount)),
            amount=currency.money_up(times(loss_rate, limit.amount)),
            rate=loss_rate,
        ),
    )


def reserve_for(policy: PolicySet, product: str, outstanding: Money) -> Money:
    """The reserve to hold against what is outstanding of a product, rounded up.

    Args:
        policy: The policy set of the day.
        product: One of the three products.
        outstanding: What is drawn and not repaid.

    Raises:
        PolicyRefused: A currency without a rate.
    """
    inquiry = Inquiry(policy)
    currency = Exchange(inquiry).checked(outstanding)
    rate = inquiry.one("product", product=product).number("reserve_rate")
    return currency.money_up(times(rate, outstanding.amount))

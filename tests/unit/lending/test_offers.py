"""Pay-triggered offers: a settled payment triggers one, within every cap of an application."""

import datetime as dt

import pytest
from pydantic import ValidationError

from policies.decision_tables.errors import PolicyRefused
from policies.lending.money import Money
from policies.lending.offers import assess_settlement, offer_for_settlement
from policies.lending.types import Exposure, NoOffer, Offer, Settlement


def _settled(amount="90000.00", currency="USD", industry="home"):
    return Settlement(
        settlement_id="settlement-1", applicant_id="seller-1", amount=Money.of(amount, currency), industry=industry
    )


def test_a_settled_payment_triggers_an_offer_of_its_share(policy, risk, checks):
    offer = offer_for_settlement(policy, _settled(), risk("0.01"), checks(), Exposure())

    assert isinstance(offer, Offer)
    assert offer.terms.limit == Money.of("45000.00", "USD")
    assert offer.terms.tenor_days == 60
    assert offer.decision.product == "order"
    assert "offer" in {row.table for row in offer.decision.trace}


def test_an_offer_is_open_for_the_days_of_the_table(policy, risk, checks):
    offer = offer_for_settlement(policy, _settled(), risk("0.01"), checks(), Exposure())

    open_on = [offer.open_on(policy.date + dt.timedelta(days=day)) for day in (-1, 0, 6, 7)]

    assert open_on == [False, True, True, False]


@pytest.mark.parametrize(
    ("settled", "pd", "change", "codes"),
    [
        (_settled(industry="toys"), "0.01", {}, ["OFFER_NOT_FORESEEN"]),
        (_settled(), "0.06", {}, ["OFFER_NOT_FORESEEN"]),
        (_settled(), "0.01", {"customer_risk": "high"}, ["OFFER_NOT_FORESEEN"]),
        (_settled("2000.00"), "0.01", {}, ["OFFER_SETTLED_TOO_LITTLE"]),
        (_settled(), "0.01", {"screening": "blocked"}, ["OFFER_NOT_APPROVED", "SCREENING_BLOCKED"]),
        (_settled(), "0.01", {"double_financing": "unchecked"}, ["OFFER_NOT_APPROVED", "DOUBLE_FINANCING_UNCHECKED"]),
        (_settled("900000.00"), "0.01", {}, ["OFFER_NOT_APPROVED", "LARGE_EXPOSURE"]),
    ],
)
def test_nothing_is_offered_that_would_not_be_approved_unseen(policy, risk, checks, settled, pd, change, codes):
    found = assess_settlement(policy, settled, risk(pd), checks(**change), Exposure())

    assert isinstance(found, NoOffer)
    assert [reason.code for reason in found.reasons] == codes
    assert offer_for_settlement(policy, settled, risk(pd), checks(**change), Exposure()) is None


def test_what_is_outstanding_counts_against_an_offer(policy, risk, checks):
    owed = Exposure(outstanding=(Money.of("5000000.00", "CNY"),))

    found = assess_settlement(policy, _settled(), risk("0.01"), checks(), owed)

    assert "PRODUCT_CAP" in [reason.code for reason in found.reasons]


def test_a_degraded_score_makes_no_offer_of_more_than_it_is_worth(policy, risk, checks):
    offer = offer_for_settlement(policy, _settled(), risk("0.01", degraded_roles=("payment",)), checks(), Exposure())

    # 80 % of the settled amount is the ceiling, 70 % of that is left, and half the amount is below it.
    assert offer.terms.limit == Money.of("45000.00", "USD")
    assert offer.terms.expected_loss.pd_12m > risk("0.01").pd_12m


def test_a_settlement_in_a_currency_without_a_rate_is_no_offer_and_no_refusal(policy, risk, checks):
    with pytest.raises(PolicyRefused, match="expected a currency"):
        offer_for_settlement(policy, _settled(currency="XAU"), risk(), checks(), Exposure())


def test_an_offer_on_other_terms_than_its_decision_cannot_exist(policy, risk, checks):
    offer = offer_for_settlement(policy, _settled(), risk("0.01"), checks(), Exposure())
    more = offer.terms.model_copy(update={"limit": Money.of("90000.00", "USD")})

    with pytest.raises(ValidationError, match="on the terms of an approved decision"):
        Offer.model_validate({**dict(offer), "terms": more})

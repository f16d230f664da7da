"""The risk rating of a customer, and how a screening becomes the checks of a decision."""

import pytest

from policies.lending.decide import decide
from policies.lending.money import Money
from policies.lending.types import Application, Checks, Declined, Evidence, Exposure, Referred, Risk
from policies.screening.rating import CustomerFacts, jurisdiction_verdict, rate_customer
from policies.screening.screen import Subject


def _facts(**changes):
    fields = {
        "jurisdiction": "clear",
        "product": "order",
        "history_months": 24,
        "prior_defaults": 0,
        "amount": Money.of("10000.00", "USD"),
    }
    return CustomerFacts.model_validate({**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "rating", "codes"),
    [
        ({}, "low", []),
        ({"history_months": 3}, "medium", ["CUSTOMER_HISTORY_SHORT"]),
        ({"history_months": None}, "medium", ["CUSTOMER_HISTORY_SHORT"]),
        ({"prior_defaults": 1}, "medium", ["CUSTOMER_DEFAULT"]),
        ({"prior_defaults": 3}, "high", ["CUSTOMER_DEFAULTS"]),
        ({"jurisdiction": "referred"}, "high", ["CUSTOMER_JURISDICTION"]),
        ({"amount": Money.of("281690.15", "USD")}, "medium", ["CUSTOMER_AMOUNT_LARGE"]),
        ({"amount": Money.of("281690.13", "USD")}, "low", []),
        (
            {"history_months": 3, "amount": Money.of("150000.00", "USD")},
            "high",
            ["CUSTOMER_HISTORY_SHORT", "CUSTOMER_HISTORY_SHORT_LARGE"],
        ),
        ({"product": "warehouse_receipt", "amount": Money.of("150000.00", "USD")}, "medium", ["CUSTOMER_AMOUNT_LARGE"]),
    ],
)
def test_a_customer_is_rated_by_the_severest_row(policy, changes, rating, codes):
    found = rate_customer(policy, _facts(**changes))

    assert (found.rating, [reason.code for reason in found.reasons]) == (rating, codes)


def _decided(policy, screener, name, country):
    screening = screener.screen(Subject(names=(name,), countries=(country,)))
    rating = rate_customer(policy, _facts(jurisdiction=jurisdiction_verdict(screening)))
    checks = Checks(
        screening=screening.verdict,
        screening_codes=screening.codes,
        three_way_match="matched",
        double_financing="clear",
        customer_risk=rating.rating,
    )
    application = Application.model_validate(
        {
            "applicant_id": "seller-1",
            "product": "order",
            "amount": Money.of("10000.00", "USD"),
            "tenor_days": 60,
            "industry": "home",
            "evidence": (Evidence(kind="purchase_order", reference="po-1", value=Money.of("20000.00", "USD")),),
        }
    )
    risk = Risk.model_validate_json('{"pd_12m": "0.001", "model_version": "model-1"}')
    return decide(policy, application, risk, checks, Exposure()).outcome


def test_a_sanctioned_seller_is_declined_with_the_reason(policy, screener):
    outcome = _decided(policy, screener, "Осип Маратович Валдренко", "SG")

    assert isinstance(outcome, Declined)
    assert [reason.code for reason in outcome.reasons] == ["SCREENING_BLOCKED", "NAME_SANCTIONED"]


def test_a_seller_in_a_high_risk_jurisdiction_goes_to_two_people(policy, screener):
    outcome = _decided(policy, screener, "Li Wei", "VN")

    assert isinstance(outcome, Referred)
    assert [reason.code for reason in outcome.reasons] == [
        "SCREENING_REFERRED",
        "JURISDICTION_MONITORED",
        "SENSITIVE_CUSTOMER",
    ]


def test_a_name_alone_does_not_make_the_jurisdiction_suspect(screener):
    screening = screener.screen(Subject(names=("Osip Maratovich Valdrenko",), countries=("SG",)))

    assert jurisdiction_verdict(screening) == "clear"

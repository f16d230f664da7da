"""What holds of every assessment: order by risk, caps, sameness, and no approval without a score."""

import datetime as dt
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.decisions.standing import Claim, Standing
from coordinator.financing.case import Case, Party, assess, terms_of
from coordinator.financing.checks import Matched
from coordinator.financing.score_source import Scored
from coordinator.financing.today import Today
from policies.lending.money import Money
from policies.lending.policy import LendingPolicy
from policies.lending.types import Application, Evidence, Risk
from policies.screening.lists import ScreeningLists
from policies.screening.screen import Screener
from protos.sealed_sum.secret import SecretBytes

DAY = dt.date(2026, 11, 25)
KEY = SecretBytes(bytes(32))
SEVERITY = ("approved", "referred", "declined")
CAP = Decimal(5_000_000)
KIND = {"order": "purchase_order", "receivable": "receivable", "warehouse_receipt": "stock_appraisal"}


@pytest.fixture(scope="module")
def today():
    policy = LendingPolicy.load().on(DAY)
    return Today(policy, Screener(policy, ScreeningLists.load(on=DAY)))


# Most of what is drawn can be approved: a property of refusals alone says little.
pds = st.sampled_from(["0.004", "0.015", "0.03", "0.08", "0.12"]).map(Decimal) | st.decimals(0, 1, places=6)
amounts = st.integers(20, 1_500).map(lambda thousands: Decimal(thousands * 1000)) | st.decimals(1, 9_000_000, places=2)
worth = st.sampled_from([Decimal(4), Decimal(2), Decimal("1.25"), Decimal(1), Decimal("0.5")])


@st.composite
def cases(draw):
    """(today) -> a case, without its risk."""
    product = draw(st.sampled_from(list(KIND)))
    currency = draw(st.sampled_from(["CNY", "USD", "EUR"]))
    amount = draw(amounts)
    application = Application(
        applicant_id="seller-1",
        product=product,
        amount=Money.of(amount, currency),
        tenor_days=draw(st.integers(1, 120) | st.integers(1, 200)),
        industry=draw(st.sampled_from(["electronics", "apparel", "home", "home", "mining"])),
        evidence=(Evidence(kind=KIND[product], reference="PO-1", value=Money.of(amount * draw(worth), currency)),),
    )
    party = Party(
        name="Lantern Home Goods Ltd",
        country=draw(st.sampled_from(["CN", "CN", "CN", "BG", "MM", "KP"])),
        history_months=draw(st.integers(0, 40) | st.none()),
        prior_defaults=draw(st.sampled_from([0, 0, 0, 1, 2])),
    )
    matched = Matched(draw(st.sampled_from(["matched", "matched", "not_required", "pending"])))
    return lambda today, pd, **changes: Case.of(
        party, application, Scored(Risk(pd_12m=pd, model_version="m"), **changes), matched, today, KEY
    )


@st.composite
def standings(draw):
    owed = draw(st.dictionaries(st.sampled_from(["CNY", "EUR", "USD"]), st.decimals(0, 900_000, places=2), max_size=2))
    claims = draw(st.sampled_from([(), (), (), (Claim(bytes(32), 1, own=False),), (Claim(bytes(32), 2, own=True),)]))
    return Standing(1, tuple(sorted(owed.items())), claims)


@settings(max_examples=150, deadline=None)
@given(cases(), standings(), pds, pds)
def test_more_risk_never_gets_a_better_answer_limit_or_rate(today, case_of, standing, one, other):
    low, high = sorted((one, other))
    safe, risky = (assess(case_of(today, pd), standing).decision for pd in (low, high))

    assert SEVERITY.index(safe.outcome.outcome) <= SEVERITY.index(risky.outcome.outcome)
    if terms_of(safe) is not None and terms_of(risky) is not None:
        assert terms_of(safe).rate <= terms_of(risky).rate
        assert terms_of(safe).limit.amount >= terms_of(risky).limit.amount


@settings(max_examples=100, deadline=None)
@given(cases(), standings(), st.decimals(0, 2_000_000, places=2), pds)
def test_owing_more_never_gets_a_higher_limit(today, case_of, standing, more, pd):
    owed = dict(standing.owed)
    owed["CNY"] = owed.get("CNY", Decimal(0)) + more
    deeper = replace(standing, owed=tuple(sorted(owed.items())))
    before, after = (assess(case_of(today, pd), one).decision for one in (standing, deeper))

    assert SEVERITY.index(before.outcome.outcome) <= SEVERITY.index(after.outcome.outcome)
    if terms_of(before) is not None and terms_of(after) is not None:
        assert terms_of(before).limit.amount >= terms_of(after).limit.amount


@settings(max_examples=100, deadline=None)
@given(cases(), st.decimals(0, 6_000_000, places=2), pds)
def test_no_limit_with_what_is_owed_ever_exceeds_the_cap(today, case_of, owed, pd):
    terms = terms_of(assess(case_of(today, pd), Standing(1, (("CNY", owed),))).decision)

    if terms is not None and terms.limit.currency == "CNY":
        assert terms.limit.amount + owed <= CAP


@settings(max_examples=60, deadline=None)
@given(cases(), standings(), pds)
def test_the_same_input_and_versions_give_the_same_decision(today, case_of, standing, pd):
    fresh = Today(today.policy, Screener(today.policy, today.screener.lists))

    assert assess(case_of(today, pd), standing) == assess(case_of(fresh, pd), standing)


@settings(max_examples=100, deadline=None)
@given(cases(), standings(), pds)
def test_without_a_score_nothing_is_approved_and_a_decline_would_be_one_at_any_risk(today, case_of, standing, pd):
    outcome = assess(case_of(today, pd, missing="The gateway was down."), standing).decision.outcome

    assert outcome.outcome != "approved"
    if outcome.outcome == "referred":
        assert outcome.reasons[0].code == "SCORE_MISSING"
    else:
        best = assess(case_of(today, Decimal(0)), standing).decision.outcome
        assert best.outcome == "declined"


def test_what_is_drawn_is_approved_often_enough_to_mean_something(today):
    seen = []

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(cases(), standings(), pds)
    def look(case_of, standing, pd):
        seen.append(assess(case_of(today, pd), standing).decision.outcome.outcome)

    look()
    assert all(seen.count(outcome) >= 5 for outcome in SEVERITY), {one: seen.count(one) for one in SEVERITY}

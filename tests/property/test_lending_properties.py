"""What holds for every application, whatever its numbers: caps, order by risk, exactness, sameness."""

import datetime as dt
import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from policies.decision_tables.document import TableDocument
from policies.decision_tables.engine import Engine
from policies.decision_tables.errors import PolicyRefused
from policies.decision_tables.table import build_table
from policies.lending.cases import terms_of
from policies.lending.catalogue import CATALOGUE, SEVERITIES
from policies.lending.decide import decide
from policies.lending.exchange import Exchange
from policies.lending.money import Money, divide_down, divide_up
from policies.lending.offers import offer_for_settlement
from policies.lending.policy import LendingPolicy
from policies.lending.policy_set import Inquiry, PolicySet
from policies.lending.types import (
    Application,
    Approved,
    Checks,
    Decision,
    Declined,
    Evidence,
    Exposure,
    ReasonVote,
    Referred,
    Risk,
    Settlement,
)

ALL = LendingPolicy.load()
POLICY = ALL.on(dt.date(2026, 11, 25))
CURRENCIES = {
    row.cells["currency"].strip('"'): (row.number("cny_per_unit"), int(row.number("minor_digits")))
    for row in POLICY.tables["fx"].rows.values()
}
KINDS = {"order": "purchase_order", "receivable": "receivable", "warehouse_receipt": "stock_appraisal"}
ADVANCE = {"order": Fraction(4, 5), "receivable": Fraction(4, 5), "warehouse_receipt": Fraction(7, 10)}
CAP_CNY = 5_000_000
RANK = {"approved": 0, "referred": 1, "declined": 2}

probabilities = st.decimals(0, 1, places=12, allow_nan=False)


@st.composite
def moneys(draw, smallest=0, largest=10**10, currencies=tuple(CURRENCIES)):
    currency = draw(st.sampled_from(currencies))
    digits = CURRENCIES[currency][1]
    units = draw(st.integers(smallest, largest))
    return Money.of(Decimal(units).scaleb(-digits), currency)


@st.composite
def applications(draw):
    product = draw(st.sampled_from(sorted(KINDS)))
    values = draw(st.lists(st.none() | moneys(), max_size=3))
    return Application(
        applicant_id="seller-1",
        product=product,
        amount=draw(moneys(smallest=1)),
        tenor_days=draw(st.integers(1, 200)),
        industry=draw(st.sampled_from(["electronics", "apparel", "home", "toys"])),
        evidence=tuple(Evidence(kind=KINDS[product], reference=f"d-{k}", value=v) for k, v in enumerate(values)),
    )


checks = st.builds(
    Checks,
    screening=st.sampled_from(["clear", "referred", "blocked"]),
    three_way_match=st.sampled_from(["matched", "not_required", "pending", "mismatched"]),
    double_financing=st.sampled_from(["clear", "unchecked", "suspected", "confirmed"]),
    customer_risk=st.sampled_from(["low", "medium", "high"]),
)
clean = st.builds(
    Checks,
    screening=st.just("clear"),
    three_way_match=st.just("matched"),
    double_financing=st.just("clear"),
    customer_risk=st.sampled_from(["low", "medium", "high"]),
)
exposures = st.builds(Exposure, outstanding=st.lists(moneys(largest=10**9), max_size=3).map(tuple))
roles = st.sets(st.sampled_from(["bank", "payment", "logistics", "customs"]), max_size=3).map(
    lambda found: tuple(sorted(found))
)
votes = st.lists(
    st.sampled_from(["DEBT_RATIO", "PAST_DUE_90_DAYS", "PAST_DUE_30_59_DAYS", "SHOE_SIZE"]), unique=True, max_size=4
).map(lambda codes: tuple(ReasonVote(code=code) for code in codes))


@st.composite
def sound_applications(draw):
    """Applications that get as far as a price: well documented, not too long, of an amount that matters."""
    product = draw(st.sampled_from(sorted(KINDS)))
    currency = draw(st.sampled_from(tuple(CURRENCIES)))
    rate, digits = CURRENCIES[currency]
    cny = draw(st.integers(20_000, 9_000_000))
    amount = divide_up(Decimal(cny), rate, digits)
    value = divide_up(Decimal(draw(st.integers(cny // 2, 3 * cny))), rate, digits)
    return Application(
        applicant_id="seller-1",
        product=product,
        amount=Money.of(amount, currency),
        tenor_days=draw(st.integers(1, 90)),
        industry=draw(st.sampled_from(["electronics", "apparel", "home", "toys"])),
        evidence=(Evidence(kind=KINDS[product], reference="d-1", value=Money.of(value, currency)),),
    )


def _risk(pd, missing=(), reasons=()):
    return Risk(pd_12m=pd, model_version="model-1", degraded_roles=missing, reason_votes=reasons)


def _cny(money):
    return Fraction(money.amount) * Fraction(CURRENCIES[money.currency][0])


@settings(max_examples=150, deadline=None)
@given(st.one_of(applications(), sound_applications()), probabilities, st.one_of(checks, clean), exposures, roles)
def test_no_limit_ever_exceeds_a_cap_in_any_currency(application, pd, found, exposure, missing):
    terms = terms_of(decide(POLICY, application, _risk(pd, missing), found, exposure))

    assume(terms is not None)
    value = sum(_cny(one.value) for one in application.evidence if one.value is not None)
    owed = sum(_cny(one) for one in exposure.outstanding)
    assert terms.limit.amount <= application.amount.amount
    assert _cny(terms.limit) <= ADVANCE[application.product] * value
    assert _cny(terms.limit) + owed <= CAP_CNY
    assert Decimal("0.04") <= terms.base_rate <= Decimal("0.06")


@settings(max_examples=150, deadline=None)
@given(sound_applications(), probabilities, probabilities, clean, exposures, roles)
def test_more_risk_never_gets_the_better_answer(application, one, other, found, exposure, missing):
    less, more = sorted((one, other))

    _no_better(
        decide(POLICY, application, _risk(more, missing), found, exposure),
        decide(POLICY, application, _risk(less, missing), found, exposure),
    )


@settings(max_examples=100, deadline=None)
@given(sound_applications(), st.decimals(0, "0.15", places=6), clean, roles, roles)
def test_a_score_of_fewer_roles_never_gets_the_better_answer(application, pd, found, one, other):
    fewer = tuple(sorted({*one, *other}))

    _no_better(
        decide(POLICY, application, _risk(pd, fewer), found, Exposure()),
        decide(POLICY, application, _risk(pd, one), found, Exposure()),
    )


@settings(max_examples=100, deadline=None)
@given(sound_applications(), st.decimals(0, "0.15", places=6), checks, checks)
def test_a_worse_check_never_gets_the_better_answer(application, pd, one, other):
    fields = ("screening", "double_financing", "customer_risk")
    orders = (
        ("clear", "referred", "blocked"),
        ("clear", "unchecked", "suspected", "confirmed"),
        ("low", "medium", "high"),
    )
    worse = one.model_copy(
        update={
            name: max(getattr(one, name), getattr(other, name), key=order.index)
            for name, order in zip(fields, orders, strict=True)
        }
    )

    _no_better(
        decide(POLICY, application, _risk(pd), worse, Exposure()),
        decide(POLICY, application, _risk(pd), one, Exposure()),
    )


def _no_better(worse, better):
    assert RANK[worse.outcome.outcome] >= RANK[better.outcome.outcome]
    low, high = terms_of(worse), terms_of(better)
    if low is not None and high is not None:
        assert low.limit.amount <= high.limit.amount
        assert low.rate >= high.rate
        assert low.base_rate >= high.base_rate
        assert low.margin >= high.margin


@settings(max_examples=100, deadline=None)
@given(st.one_of(applications(), sound_applications()), probabilities, checks, exposures, roles, votes)
def test_the_same_input_and_versions_give_the_same_decision(application, pd, found, exposure, missing, reasons):
    entered = (application, _risk(pd, missing, reasons), found, exposure)
    decision = decide(POLICY, *entered)
    read = [type(part).model_validate_json(part.model_dump_json()) for part in entered]

    assert decide(POLICY, *entered) == decision
    assert decide(PolicySet.of(POLICY.date, POLICY.tables), *read) == decision
    assert Decision.model_validate_json(decision.model_dump_json()) == decision


@settings(max_examples=150, deadline=None)
@given(st.one_of(applications(), sound_applications()), probabilities, checks, exposures, roles, votes)
def test_whatever_is_not_a_plain_yes_has_reasons_in_words(application, pd, found, exposure, missing, reasons):
    outcome = decide(POLICY, application, _risk(pd, missing, reasons), found, exposure).outcome

    match outcome:
        case Declined(reasons=given_reasons) | Referred(reasons=given_reasons):
            assert given_reasons
        case Approved(terms=terms, reductions=given_reasons):
            assert bool(given_reasons) == (terms.limit.amount < application.amount.amount)
    codes = [reason.code for reason in given_reasons]
    assert len(codes) == len(set(codes))
    assert all(reason.text for reason in given_reasons)
    assert found.screening != "blocked" or isinstance(outcome, Declined)


@settings(max_examples=150, deadline=None)
@given(sound_applications(), st.decimals(0, "0.15", places=12), clean, roles)
def test_amounts_and_rates_are_exact_and_rounded_by_less_than_one_unit(application, pd, found, missing):
    terms = terms_of(decide(POLICY, application, _risk(pd, missing), found, Exposure()))

    assume(terms is not None)
    unit = Fraction(1, 10 ** CURRENCIES[terms.limit.currency][1])
    limit, loss = Fraction(terms.limit.amount), terms.expected_loss
    expected = Fraction(loss.pd_12m) * Fraction(loss.lgd) * Fraction(loss.ead.amount)
    assert limit % unit == 0
    assert 0 <= Fraction(terms.reserve.amount) - limit * Fraction(3, 100) < unit
    # The rate of the loss is rounded to twelve places first: less than one unit in all, and never below.
    assert 0 <= Fraction(loss.amount.amount) - expected < unit + limit * Fraction(1, 10**12)
    assert 0 <= Fraction(terms.margin) - Fraction(loss.rate) < Fraction(1, 10_000)
    assert terms.rate == terms.base_rate + terms.margin


@settings(max_examples=200, deadline=None)
@given(moneys(), st.sampled_from(tuple(CURRENCIES)))
def test_conversions_never_favour_the_applicant_and_lose_less_than_a_unit_each(money, code):
    exchange = Exchange(Inquiry(POLICY))
    source, target = exchange.currency(money.currency), exchange.currency(code)
    true = Fraction(money.amount) * Fraction(source.cny_per_unit)

    down, up = Fraction(source.in_cny_down(money.amount)), Fraction(source.in_cny_up(money.amount))
    there = Fraction(exchange.converted_down(money, target)) * Fraction(target.cny_per_unit)

    assert true - Fraction(1, 100) < down <= true <= up < true + Fraction(1, 100)
    assert there <= true
    assert true - there < Fraction(1, 100) + Fraction(target.cny_per_unit) / 10**target.minor_digits


@given(
    st.decimals(0, 10**15, places=4, allow_nan=False),
    st.decimals("0.000000000001", 10**6, places=12, allow_nan=False),
    st.integers(0, 4),
)
def test_quotients_are_rounded_once_and_in_their_direction(number, divisor, places):
    true, unit = Fraction(number) / Fraction(divisor), Fraction(1, 10**places)

    assert true - unit < Fraction(divide_down(number, divisor, places)) <= true
    assert true <= Fraction(divide_up(number, divisor, places)) < true + unit


@settings(max_examples=80, deadline=None)
@given(
    moneys(smallest=10**6, largest=10**8, currencies=("CNY", "USD", "EUR", "KWD", "HKD")),
    st.decimals(0, "0.06", places=6),
    clean,
    st.just(Exposure()) | exposures,
    st.just(()) | roles,
)
def test_an_offer_is_within_every_cap_too(money, pd, found, exposure, missing):
    settlement = Settlement(settlement_id="s-1", applicant_id="seller-1", amount=money, industry="home")
    offer = offer_for_settlement(POLICY, settlement, _risk(pd, missing), found, exposure)

    assume(offer is not None)
    assert _cny(offer.terms.limit) <= _cny(money) / 2
    assert _cny(offer.terms.limit) + sum(_cny(one) for one in exposure.outstanding) <= CAP_CNY
    assert isinstance(offer.decision.outcome, Approved)


def _with_outputs(name, column, values):
    """The document of a table with other numbers in one output column."""
    content = json.loads(POLICY.tables[name].document.model_dump_json(by_alias=True))
    content["jdm"]["nodes"] = tuple(content["jdm"]["nodes"])
    content["jdm"]["edges"] = tuple(content["jdm"]["edges"])
    table = content["jdm"]["nodes"][1]["content"]
    for key in ("inputs", "outputs", "rules"):
        table[key] = tuple(table[key])
    for row, value in zip(table["rules"], values, strict=True):
        row[f"out_{column}"] = f'"{value}"'
    return TableDocument.model_validate(content)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([("appetite", "limit_factor"), ("appetite", "outcome"), ("rate", "base_rate")]),
    st.data(),
    sound_applications(),
    st.decimals(0, "0.3", places=6),
    st.decimals(0, "0.3", places=6),
)
def test_whatever_numbers_a_policy_owner_writes_more_risk_gets_no_better_answer_or_the_table_is_refused(
    column, data, application, one, other
):
    """The promise is the loader's, not that of the shipped numbers."""
    name, output = column
    texts = SEVERITIES if output == "outcome" else [f"0.{number:02}" for number in (0, 4, 5, 6, 30, 60, 99)]
    values = data.draw(st.lists(st.sampled_from(texts), min_size=5, max_size=5))
    try:
        table = build_table(_with_outputs(name, output, values), CATALOGUE[name], name)
    except PolicyRefused:
        rising = output != "limit_factor"
        ranks = [SEVERITIES.index(v) if output == "outcome" else Decimal(v) for v in values]
        assert ranks != sorted(ranks, reverse=not rising)
        return
    policy = PolicySet.of(POLICY.date, {**POLICY.tables, name: table})
    less, more = sorted((one, other))
    found = Checks(screening="clear", three_way_match="matched", double_financing="clear", customer_risk="low")

    _no_better(
        decide(policy, application, _risk(more), found, Exposure()),
        decide(policy, application, _risk(less), found, Exposure()),
    )


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(CATALOGUE)), st.data())
def test_the_engine_finds_the_rows_that_our_own_reading_finds(name, data):
    table = POLICY.tables[name]
    facts = {}
    for column in table.shape.inputs:
        match column.kind:
            case "flag":
                facts[column.name] = data.draw(st.booleans())
            case "text":
                named = [cell.strip('"') for row in table.rows.values() for cell in [row.cells[column.name]] if cell]
                texts = (
                    st.sampled_from(column.values) if column.values else st.sampled_from(named) | st.text(max_size=8)
                )
                facts[column.name] = data.draw(texts)
            case "number":
                high = column.high if column.high is not None else Decimal(10) ** 9
                facts[column.name] = data.draw(st.decimals(column.low, high, places=12, allow_nan=False))
    try:
        found = Engine({name: table}).matching(name, facts)
    except PolicyRefused:  # half a surrogate pair is no text that the engine takes
        assert any("\ud800" <= letter <= "\udfff" for value in map(str, facts.values()) for letter in value)
        return

    assert found == table.matching(facts)


@pytest.mark.parametrize("day", ALL.days_of_change())
def test_the_properties_speak_of_every_currency_of_every_day(day):
    assert set(CURRENCIES) == {row.cells["currency"].strip('"') for row in ALL.on(day).tables["fx"].rows.values()}

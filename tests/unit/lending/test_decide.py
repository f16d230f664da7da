"""Decisions: what is lent, at what price, why not, and under which versions."""

import datetime as dt
from decimal import Decimal, Inexact

import pytest
from pydantic import ValidationError

from policies.decision_tables.errors import PolicyRefused
from policies.lending.decide import decide, inputs_sha256
from policies.lending.explain import explained, replayed
from policies.lending.money import Money, divide_down, divide_up, round_down, round_up, times
from policies.lending.policy import LendingPolicy, archived, from_archive
from policies.lending.pricing import reserve_for
from policies.lending.reasons import unmapped_score_codes
from policies.lending.record import canonical_json, sha256_of
from policies.lending.types import (
    Application,
    Approved,
    Checks,
    Decision,
    Declined,
    Evidence,
    Exposure,
    Reason,
    ReasonVote,
    Referred,
    Risk,
    pd_12m_of,
)
from policies.presets import gmsc_features


def _codes(reasons):
    return [reason.code for reason in reasons]


def _stock(value, currency="CNY"):
    return (Evidence(kind="stock_appraisal", reference="wr-1", value=Money.of(value, currency)),)


def test_a_decline_without_reasons_cannot_exist():
    with pytest.raises(ValidationError, match="reasons"):
        Declined(reasons=())


def test_a_referral_without_reasons_cannot_exist(decided, checks):
    referred = decided(checks=checks(customer_risk="high")).outcome

    with pytest.raises(ValidationError, match="reasons"):
        Referred.model_validate({**dict(referred), "reasons": ()})


def test_outcomes_and_decisions_cannot_be_changed(decided):
    decision = decided()

    with pytest.raises(ValidationError, match="frozen"):
        decision.outcome = Declined(reasons=(Reason(code="NO", text="no"),))


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("screening", "blocked", "SCREENING_BLOCKED"),
        ("three_way_match", "mismatched", "THREE_WAY_MISMATCH"),
        ("double_financing", "confirmed", "DOUBLE_FINANCING"),
    ],
)
def test_a_failed_check_declines_however_good_the_risk(decided, risk, checks, field, value, code):
    outcome = decided(risk=risk("0"), checks=checks(**{field: value})).outcome

    assert isinstance(outcome, Declined)
    assert _codes(outcome.reasons) == [code]


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("screening", "referred", "SCREENING_REFERRED"),
        ("three_way_match", "pending", "THREE_WAY_PENDING"),
        ("double_financing", "suspected", "DOUBLE_FINANCING_SUSPECTED"),
        ("double_financing", "unchecked", "DOUBLE_FINANCING_UNCHECKED"),
        ("customer_risk", "high", "SENSITIVE_CUSTOMER"),
    ],
)
def test_a_doubtful_check_goes_to_two_people_with_terms_that_they_may_grant(decided, checks, field, value, code):
    outcome = decided(checks=checks(**{field: value})).outcome

    assert isinstance(outcome, Referred)
    assert outcome.refer_to == "two_person_review"
    assert _codes(outcome.reasons) == [code]
    assert outcome.proposed.limit == Money.of("800000.00", "CNY")


def test_a_doubt_found_later_does_not_soften_a_decline(decided, checks):
    """The plan finds the mismatch first and the sensitive customer last."""
    outcome = decided(checks=checks(three_way_match="mismatched", customer_risk="high")).outcome

    assert isinstance(outcome, Declined)
    assert _codes(outcome.reasons) == ["THREE_WAY_MISMATCH", "SENSITIVE_CUSTOMER"]


def test_no_table_can_waive_a_sanction(folder, edited, rules_of, application, risk, checks):
    """A policy owner who deletes the rows about screening, and their cases, still finances nobody sanctioned."""
    edited(folder / "eligibility" / "2026-01-01.json", lambda table: rules_of(table).__delitem__(slice(0, 2)))

    def drop(content):
        content["cases"] = [case for case in content["cases"] if case["facts"]["screening"] == "clear"]

    edited(folder / "eligibility" / "2026-01-01.cases.json", drop)
    weakened = LendingPolicy.load(folder).on(dt.date(2026, 11, 25))

    blocked = decide(weakened, application(), risk(), checks(screening="blocked"), Exposure()).outcome
    possible = decide(weakened, application(), risk(), checks(screening="referred"), Exposure()).outcome

    assert isinstance(blocked, Declined)
    assert isinstance(possible, Referred)


def test_warehouse_receipts_lend_70_percent_of_the_appraised_stock(decided, application):
    outcome = decided(
        application(product="warehouse_receipt", amount=Money.of("10000000.00", "CNY"), evidence=_stock("1000000.00"))
    ).outcome

    assert outcome.proposed.limit == Money.of("700000.00", "CNY")
    assert _codes(outcome.reductions) == ["EVIDENCE_LIMIT"]


def test_what_is_outstanding_in_any_currency_counts_against_the_cap(decided, application):
    owed = Exposure(outstanding=(Money.of("4000000.00", "CNY"), Money.of("100000.00", "USD")))

    outcome = decided(application(), exposure=owed).outcome

    # 5 million less 4 million less 100,000 dollars at 7.1.
    assert outcome.proposed.limit == Money.of("290000.00", "CNY")
    assert _codes(outcome.reductions) == ["PRODUCT_CAP"]


def test_a_used_up_cap_is_a_decline_that_says_so(decided):
    outcome = decided(exposure=Exposure(outstanding=(Money.of("6000000.00", "CNY"),))).outcome

    assert _codes(outcome.reasons) == ["LARGE_EXPOSURE", "PRODUCT_CAP", "LIMIT_BELOW_MINIMUM"]


def test_evidence_in_another_currency_is_worth_what_the_policys_rates_say(decided, application):
    order = (Evidence(kind="purchase_order", reference="po-1", value=Money.of("100000.00", "USD")),)

    outcome = decided(application(evidence=order)).outcome

    assert outcome.terms.limit == Money.of("568000.00", "CNY")


def test_documents_of_another_kind_are_worth_nothing(decided, application):
    outcome = decided(application(evidence=_stock("9000000.00"))).outcome

    assert _codes(outcome.reasons) == ["EVIDENCE_MISSING"]


def test_a_document_without_a_value_goes_to_two_people_and_counts_nothing(decided, application):
    order = application().evidence
    outcome = decided(application(evidence=(*order, Evidence(kind="purchase_order", reference="po-2")))).outcome

    assert _codes(outcome.reasons) == ["EVIDENCE_UNVALUED"]
    assert outcome.proposed.limit == Money.of("800000.00", "CNY")


def test_one_document_cannot_count_twice(application):
    order = application().evidence

    with pytest.raises(ValidationError, match="expected every document once"):
        application(evidence=(*order, *order))


def test_missing_roles_cost_limit_and_price_by_the_strictest_row(decided, risk):
    whole = decided(risk=risk("0.01")).outcome.terms
    without = decided(risk=risk("0.01", degraded_roles=("logistics",))).outcome

    assert isinstance(without, Approved)
    assert without.terms.limit == Money.of("640000.00", "CNY")
    assert without.terms.rate > whole.rate
    assert without.terms.expected_loss.pd_12m == Decimal("0.0125")
    assert _codes(without.reductions) == ["SCORE_LOGISTICS_MISSING"]


def test_two_missing_roles_go_to_two_people(decided, risk):
    outcome = decided(risk=risk("0.01", degraded_roles=("logistics", "payment"))).outcome

    assert isinstance(outcome, Referred)
    assert _codes(outcome.reasons) == ["SCORE_ROLES_MISSING"]


def test_score_terms_become_the_reasons_of_a_decline_about_the_score(decided, risk):
    votes = tuple(
        ReasonVote(code=code, votes=number)
        for code, number in [
            ("PAST_DUE_90_DAYS", 9),
            ("DEBT_RATIO", 8),
            ("PAST_DUE_30_59_DAYS", 7),
            ("REFUND_RATE", 6),
            ("NEVER_HEARD_OF", 5),
            ("MONTHLY_INCOME", 4),
        ]
    )

    reasons = decided(risk=risk("0.3", reason_votes=votes)).outcome.reasons

    assert [(reason.code, reason.score_codes) for reason in reasons] == [
        ("RISK_ABOVE_APPETITE", ()),
        ("PAYMENTS_LATE", ("PAST_DUE_90_DAYS", "PAST_DUE_30_59_DAYS")),
        ("DEBT_HIGH_FOR_INCOME", ("DEBT_RATIO",)),
        ("REFUNDS_HIGH", ("REFUND_RATE",)),
        ("SCORE_TERM", ("NEVER_HEARD_OF",)),
    ]


def test_score_terms_are_no_reasons_of_a_decline_about_something_else(decided, risk, checks):
    votes = (ReasonVote(code="DEBT_RATIO"),)

    reasons = decided(risk=risk(reason_votes=votes), checks=checks(double_financing="confirmed")).outcome.reasons

    assert _codes(reasons) == ["DOUBLE_FINANCING"]


def test_a_decline_by_risk_alone_still_has_a_reason(decided, risk):
    assert _codes(decided(risk=risk("1")).outcome.reasons) == ["RISK_ABOVE_APPETITE"]


def test_codes_of_an_agreement_without_a_text_of_their_own_are_listed(policy):
    assert unmapped_score_codes(policy, ["DEBT_RATIO", "SHOE_SIZE", "HAT_SIZE"]) == ("HAT_SIZE", "SHOE_SIZE")


def test_every_code_of_the_shipped_agreement_has_a_text_of_its_own(policy):
    assert unmapped_score_codes(policy, [feature.reason_code for feature in gmsc_features()]) == ()


def test_a_currency_without_a_rate_is_no_decision(decided, application):
    with pytest.raises(PolicyRefused, match="expected a currency that the policy of 2026-11-25 has a rate for"):
        decided(application(amount=Money.of("100", "XAU")))


def test_an_amount_of_half_a_minor_unit_is_no_decision(decided, application):
    with pytest.raises(PolicyRefused, match=r"JPY with at most 0 decimal places, found 1000000.5"):
        decided(application(amount=Money.of("1000000.5", "JPY")))


@pytest.mark.parametrize("day", [dt.date(2025, 12, 31), dt.date(1, 1, 1)])
def test_a_day_that_the_policy_does_not_cover_is_no_decision(versions, day):
    with pytest.raises(PolicyRefused, match="in force on"):
        versions.on(day)


@pytest.mark.parametrize(
    ("day", "version"),
    [
        (dt.date(2026, 1, 1), "2026-01-01"),
        (dt.date(2026, 6, 30), "2026-01-01"),
        (dt.date(2026, 7, 1), "2026-07-01"),
        (dt.date(2036, 1, 1), "2026-07-01"),
    ],
)
def test_a_version_decides_from_its_first_day_to_the_day_before_its_last(versions, day, version):
    assert versions.on(day).tables["fx"].version == version


def test_a_decision_names_the_versions_in_force_and_every_row_that_answered(decided, policy):
    decision = decided()

    assert {one.table for one in decision.versions} == set(policy.tables)
    assert decision.policy_sha256 == policy.sha256
    for row in decision.trace:
        stored = policy.tables[row.table].rows[row.row]
        assert row.description == stored.description
        assert dict(row.outputs).keys() == stored.outputs.keys()
    assert {"product", "appetite", "loss", "rate", "fx"} <= {row.table for row in decision.trace}


def test_a_decision_survives_the_way_through_json(decided, checks):
    for decision in (
        decided(),
        decided(checks=checks(screening="blocked")),
        decided(checks=checks(customer_risk="high")),
    ):
        assert decision == Decision.model_validate_json(decision.model_dump_json())


def test_an_amount_as_a_json_number_is_refused():
    """It may have been a binary float on its way here."""
    with pytest.raises(ValidationError, match="expected a decimal number in quotes"):
        Money.model_validate_json('{"amount": 0.1, "currency": "CNY"}')


@pytest.mark.parametrize("amount", ["1e3", "NaN", "Infinity", "-1", "1_000", "٣", "0.00001", "1000000000000001", ""])
def test_an_amount_that_is_no_plain_number_is_refused(amount):
    with pytest.raises(ValidationError):
        Money.of(amount, "CNY")


@pytest.mark.parametrize("currency", ["cny", "CN", "CNYY", "C1Y", "¥"])
def test_a_currency_that_is_no_code_is_refused(currency):
    with pytest.raises(ValidationError, match="currency"):
        Money.of("1", currency)


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (Risk, {"pd_12m": Decimal("1.1"), "model_version": "m"}),
        (Risk, {"pd_12m": 0.1, "model_version": "m"}),
        (Risk, {"pd_12m": Decimal("NaN"), "model_version": "m"}),
        (Risk, {"pd_12m": Decimal("0.1"), "model_version": "m", "degraded_roles": ("b", "a")}),
        (Risk, {"pd_12m": Decimal("0.1"), "model_version": "m", "degraded_roles": ("a", "a")}),
        (Checks, {"screening": "fine"}),
        (Application, {"product": "mortgage"}),
        (Exposure, {"outstanding": (), "owed": ()}),
    ],
)
def test_what_enters_is_validated_at_the_edge(model, fields):
    with pytest.raises(ValidationError):
        model.model_validate(fields)


def test_the_hash_of_inputs_does_not_depend_on_how_decimals_are_written(application, risk, checks):
    one = inputs_sha256(application(), risk("0.01"), checks(), Exposure())
    other = inputs_sha256(application(amount=Money.of("800000.0", "CNY")), risk("0.0100"), checks(), Exposure())

    assert one == other


@pytest.mark.parametrize("change", ["application", "risk", "checks", "exposure"])
def test_the_hash_of_inputs_covers_everything_that_entered(application, risk, checks, change):
    parts = {"application": application(), "risk": risk(), "checks": checks(), "exposure": Exposure()}
    changed = {
        "application": application(applicant_id="seller-2"),
        "risk": risk(model_version="model-2"),
        "checks": checks(screening_codes=("NAME_POSSIBLE",)),
        "exposure": Exposure(outstanding=(Money.of("0", "CNY"),)),
    }

    assert inputs_sha256(*parts.values()) != inputs_sha256(*{**parts, change: changed[change]}.values())


def test_canonical_json_has_no_form_for_a_float():
    with pytest.raises(TypeError, match="no canonical form for float"):
        canonical_json({"rate": 0.1})


def test_canonical_json_is_sorted_and_has_no_white_space():
    assert canonical_json({"b": Decimal("1.50"), "a": (dt.date(2026, 1, 2), None, True)}) == (
        b'{"a":["2026-01-02",null,true],"b":"1.5"}'
    )
    assert len(sha256_of(())) == 64


def test_an_explanation_names_outcome_reasons_terms_and_rows(decided, risk):
    lines = "\n".join(explained(decided(risk=risk("0.03", reason_votes=(ReasonVote(code="DEBT_RATIO"),)))))

    for part in ("approved under the policy of 2026-11-25", "LGD 40.00 %", "RISK_MODERATE", "table rate 2026-01-01"):
        assert part in lines


def test_an_archived_policy_comes_to_the_same_decision(policy, decided, application, risk, checks):
    kept = from_archive(archived(policy))

    assert kept.sha256 == policy.sha256
    assert replayed(kept, decided(), application(), risk(), checks(), Exposure()) == decided()


def test_a_replay_finds_another_policy_other_inputs_and_a_changed_decision(
    versions, policy, decided, application, risk, checks
):
    decision = decided()
    better = decision.outcome.model_copy(
        update={"terms": decision.outcome.terms.model_copy(update={"limit": Money.of("800000.01", "CNY")})}
    )
    entered = (application(), risk(), checks(), Exposure())

    with pytest.raises(PolicyRefused, match="expected the policy"):
        replayed(versions.on(dt.date(2026, 3, 1)), decision, *entered)
    with pytest.raises(PolicyRefused, match="expected the inputs"):
        replayed(policy, decision, application(), risk("0.009"), checks(), Exposure())
    with pytest.raises(PolicyRefused, match="the stored decision was changed"):
        replayed(policy, decision.model_copy(update={"outcome": better}), *entered)


@pytest.mark.parametrize("content", [b"{}", b"[]", b"", b'{"format": "tallystick-policy-archive/1"}'])
def test_an_archive_that_is_none_is_refused(content):
    with pytest.raises(PolicyRefused, match="the archived policy"):
        from_archive(content)


def test_the_reserve_is_3_percent_of_what_is_outstanding_rounded_up(policy):
    assert reserve_for(policy, "order", Money.of("1000000.01", "CNY")) == Money.of("30000.01", "CNY")
    assert reserve_for(policy, "order", Money.of("1", "JPY")) == Money.of("1", "JPY")


def test_the_base_rate_stays_within_the_products_bounds(decided, risk, application):
    rates = [decided(risk=risk(pd)).outcome.terms.base_rate for pd in ("0", "0.005", "0.01", "0.03", "0.09")]

    assert rates == [Decimal(rate) for rate in ("0.04", "0.04", "0.045", "0.055", "0.06")]


@pytest.mark.parametrize(
    ("pd", "months", "expected"),
    [(0.1, 12, "0.1"), (0.0, 24, "0"), (1.0, 24, "1"), (0.19, 24, "0.1"), (0.1, 6, "0.19"), (1e-12, 12, "0.00000001")],
)
def test_a_pd_of_another_horizon_is_one_of_twelve_months_under_a_constant_hazard(pd, months, expected):
    assert abs(pd_12m_of(pd, months) - Decimal(expected)) <= Decimal("0.00000001")


@pytest.mark.parametrize(("pd", "months"), [(1.1, 12), (-0.1, 12), (float("nan"), 12), (0.1, 0)])
def test_a_pd_that_is_no_probability_is_refused(pd, months):
    with pytest.raises(ValueError, match="expected a probability"):
        pd_12m_of(pd, months)


def test_roundings_go_where_their_name_says():
    assert round_down(Decimal("1.999"), 2) == Decimal("1.99")
    assert round_up(Decimal("1.001"), 2) == Decimal("1.01")
    assert divide_down(Decimal(2), Decimal(3), 4) == Decimal("0.6666")
    assert divide_up(Decimal(1), Decimal(3), 4) == Decimal("0.3334")


def test_a_quotient_just_below_a_whole_number_is_not_rounded_onto_it_first():
    """With the usual 28 digits the division itself would round up, and the limit would exceed the cap."""
    number = Decimal("0." + "9" * 60)

    assert divide_down(number, Decimal(1), 2) == Decimal("0.99")


def test_a_product_that_would_be_rounded_is_refused_and_not_rounded():
    with pytest.raises(Inexact):
        times(Decimal("0." + "3" * 60), Decimal("0." + "3" * 60))

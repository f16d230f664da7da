"""In-life watch: what warns, what freezes, and that nothing thaws by itself."""

import datetime as dt
from decimal import Decimal

import pytest
from pydantic import ValidationError

from policies.lending.money import Money
from policies.lending.watch import (
    Facility,
    LateShipment,
    RateMove,
    RefundSpike,
    WatchRefused,
    disburse,
    lift,
    observe,
)


def at(minute):
    return dt.datetime(2026, 11, 25, 9, minute, tzinfo=dt.UTC)


@pytest.fixture
def facility():
    return Facility(
        facility_id="facility-1",
        industry="electronics",
        limit=Money.of("100000.00", "USD"),
        disbursed=Money.of("40000.00", "USD"),
    )


def _rate(now, then="7.00"):
    return RateMove(rate_at_decision=Decimal(then), rate_now=Decimal(now))


@pytest.mark.parametrize(
    ("signal", "action"),
    [
        (_rate("7.2099"), "none"),
        (_rate("7.21"), "warn"),
        (_rate("7.3499"), "warn"),
        (_rate("7.35"), "freeze"),
        (_rate("6.79"), "warn"),
        (_rate("6.65"), "freeze"),
        (_rate("1000000000", "0.000001"), "freeze"),
        (LateShipment(days_late=2), "none"),
        (LateShipment(days_late=3), "warn"),
        (LateShipment(days_late=10), "freeze"),
        (RefundSpike(recent_rate=Decimal("0.029"), usual_rate=Decimal("0.02")), "none"),
        (RefundSpike(recent_rate=Decimal("0.03"), usual_rate=Decimal("0.02")), "warn"),
        (RefundSpike(recent_rate=Decimal("0.05"), usual_rate=Decimal("0.02")), "freeze"),
        (RefundSpike(recent_rate=Decimal(0), usual_rate=Decimal(0)), "none"),
        (RefundSpike(recent_rate=Decimal("0.01"), usual_rate=Decimal(0)), "freeze"),
    ],
)
def test_a_signal_warns_or_freezes_as_the_table_says(policy, facility, signal, action):
    observed = observe(policy, facility, signal, by="watch", at=at(0))

    assert observed.action == action
    assert observed.facility.status == {"none": "active", "warn": "warned", "freeze": "frozen"}[action]
    assert len(observed.facility.record) == (action != "none")
    assert observed.trace[0].table == "watch"


def test_industries_have_thresholds_of_their_own(policy, facility):
    late = LateShipment(days_late=4)
    actions = [
        observe(policy, facility.model_copy(update={"industry": name}), late, by="watch", at=at(0)).action
        for name in ("electronics", "apparel", "home", "toys")
    ]

    assert actions == ["warn", "none", "none", "warn"]


def test_a_freeze_holds_what_is_not_disbursed_and_leaves_what_is(policy, facility):
    frozen = observe(policy, facility, _rate("7.40"), by="watch", at=at(0)).facility

    assert frozen.available == Money.of("0", "USD")
    assert frozen.disbursed == facility.disbursed
    with pytest.raises(WatchRefused, match="found that it is; what is not disbursed stays"):
        disburse(frozen, Money.of("0.01", "USD"), by="alice", at=at(1), why="the seller asks")


def test_a_calm_signal_thaws_nothing_and_a_warning_does_not_weaken_a_freeze(policy, facility):
    frozen = observe(policy, facility, _rate("7.40"), by="watch", at=at(0)).facility

    calm = observe(policy, frozen, _rate("7.00"), by="watch", at=at(1)).facility
    warned = observe(policy, calm, LateShipment(days_late=3), by="watch", at=at(2)).facility

    assert (calm.status, warned.status) == ("frozen", "frozen")
    assert len(warned.record) == 2


def test_a_warning_leaves_disbursement_open(policy, facility):
    warned = observe(policy, facility, _rate("7.25"), by="watch", at=at(0)).facility

    paid = disburse(warned, Money.of("60000.00", "USD"), by="alice", at=at(1), why="goods are loaded")

    assert (paid.status, paid.disbursed, paid.available) == ("warned", paid.limit, Money.of("0.00", "USD"))


@pytest.mark.parametrize("amount", [("60000.01", "USD"), ("0", "USD"), ("1.00", "CNY")])
def test_no_more_is_disbursed_than_is_available(facility, amount):
    with pytest.raises(WatchRefused, match=r"expected an amount above zero and at most 60000.00 USD"):
        disburse(facility, Money.of(*amount), by="alice", at=at(0), why="the seller asks")


def test_two_people_lift_a_freeze_and_the_record_names_both(policy, facility):
    frozen = observe(policy, facility, _rate("7.40"), by="watch", at=at(0)).facility

    lifted = lift(frozen, asked_by="alice", confirmed_by="bob", at=at(5), why="hedged")

    assert lifted.status == "active"
    assert [(step.step, step.before, step.after, step.by, step.why) for step in lifted.record[1:]] == [
        ("ask to lift", "frozen", "frozen", "alice", "hedged"),
        ("lift", "frozen", "active", "bob", "hedged"),
    ]


@pytest.mark.parametrize(("asks", "confirms"), [("alice", "alice"), ("alice", "Alice"), ("alice", "alice ")])
def test_one_person_cannot_lift_a_freeze(policy, facility, asks, confirms):
    frozen = observe(policy, facility, _rate("7.40"), by="watch", at=at(0)).facility

    with pytest.raises(WatchRefused):
        lift(frozen, asked_by=asks, confirmed_by=confirms, at=at(1), why="trust me")


def test_there_is_nothing_to_lift_from_an_active_facility(facility):
    with pytest.raises(WatchRefused, match="found it active"):
        lift(facility, asked_by="alice", confirmed_by="bob", at=at(0), why="why not")


def test_the_record_does_not_run_backwards(policy, facility):
    warned = observe(policy, facility, _rate("7.25"), by="watch", at=at(5)).facility

    with pytest.raises(WatchRefused, match="expected a time not before the last step"):
        observe(policy, warned, _rate("7.40"), by="watch", at=at(4))


def test_more_than_the_limit_can_never_be_out(facility):
    with pytest.raises(ValidationError, match=r"expected at most 100000.00 USD disbursed"):
        Facility.model_validate({**dict(facility), "disbursed": Money.of("100000.01", "USD")})


def test_a_facility_and_its_record_survive_the_way_through_json(policy, facility):
    frozen = observe(policy, facility, _rate("7.40"), by="watch", at=at(0)).facility

    assert frozen == Facility.model_validate_json(frozen.model_dump_json())

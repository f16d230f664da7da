"""Two-person review: the maker is never the checker, and nobody grants more than the policy proposed."""

import datetime as dt
from decimal import Decimal

import pytest
from pydantic import TypeAdapter

from policies.lending.money import Money
from policies.lending.review import (
    AwaitingChecker,
    AwaitingMaker,
    Closed,
    Grant,
    Refuse,
    ReviewRefused,
    ReviewState,
    confirm,
    open_review,
    recommend,
    send_back,
)
from policies.lending.types import Approved, Declined, Reason


def at(minute):
    return dt.datetime(2026, 11, 25, 9, minute, tzinfo=dt.UTC)


@pytest.fixture
def opened(decided, checks):
    return open_review(
        "case-1",
        decided(checks=checks(customer_risk="high")),
        by="scoring-api",
        at=at(0),
        why="referred by the policy",
        brought_by="dana",
    )


@pytest.fixture
def proposed(opened):
    return opened.case.referred.proposed


@pytest.fixture
def recommended(opened, proposed):
    return recommend(opened, Grant(terms=proposed), by="alice", at=at(1), why="known for years")


def _confirm(state, by="bob", minute=2):
    return confirm(state, confirmed_sha256=state.to_confirm_sha256, by=by, at=at(minute), why="agreed")


def test_two_people_turn_a_referral_into_an_approval(recommended, proposed):
    closed = _confirm(recommended)

    assert isinstance(closed.outcome, Approved)
    assert closed.outcome.terms == proposed
    assert [(step.step, step.before, step.after, step.by, step.at, step.why) for step in closed.record] == [
        ("open", "none", "awaiting_maker", "scoring-api", at(0), "referred by the policy"),
        ("recommend", "awaiting_maker", "awaiting_checker", "alice", at(1), "known for years"),
        ("confirm", "awaiting_checker", "closed", "bob", at(2), "agreed"),
    ]


def test_two_people_turn_a_referral_into_a_decline_with_reasons(opened):
    refusal = Refuse(reasons=(Reason(code="OWNER_UNKNOWN", text="Nobody knows who owns the company."),))
    closed = _confirm(recommend(opened, refusal, by="alice", at=at(1), why="no owner found"))

    assert closed.outcome == Declined(reasons=refusal.reasons)


def test_the_maker_cannot_confirm(recommended):
    with pytest.raises(ReviewRefused, match="found its maker; ask another person"):
        _confirm(recommended, by="alice")


def test_an_earlier_maker_cannot_confirm_what_another_recommends(recommended, proposed):
    """Otherwise two officers could launder one's case through the other."""
    back = send_back(recommended, by="bob", at=at(2), why="papers are missing")
    again = recommend(back, Grant(terms=proposed), by="carol", at=at(3), why="papers are here")

    with pytest.raises(ReviewRefused, match="found its maker"):
        _confirm(again, by="alice", minute=4)
    assert isinstance(_confirm(again, by="bob", minute=4), Closed)


def test_who_brought_the_case_cannot_confirm_it(recommended):
    with pytest.raises(ReviewRefused, match="found the person who did"):
        _confirm(recommended, by="dana")


def test_the_maker_cannot_send_the_case_back_as_its_checker(recommended):
    with pytest.raises(ReviewRefused, match="found its maker"):
        send_back(recommended, by="alice", at=at(2), why="changed my mind")


@pytest.mark.parametrize("by", ["Alice", "alice ", " alice", "ALICE", "ａlice", ""])
def test_another_spelling_does_not_make_another_person(recommended, by):
    with pytest.raises(ReviewRefused, match="the step 'confirm'"):
        _confirm(recommended, by=by)


def test_a_checker_confirms_what_was_read_and_nothing_else(opened, recommended, proposed):
    cheaper = proposed.model_copy(update={"limit": Money.of("700000.00", "CNY"), "reserve": proposed.reserve})
    swapped = recommend(opened, Grant(terms=cheaper), by="alice", at=at(1), why="known for years")

    with pytest.raises(ReviewRefused, match="found the hash of something else"):
        confirm(swapped, confirmed_sha256=recommended.to_confirm_sha256, by="bob", at=at(2), why="agreed")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"limit": Money.of("800000.01", "CNY")}, "expected a limit of at most 800000.00 CNY"),
        ({"limit": Money.of("1.00", "KWD")}, "expected a limit of at most"),
        ({"base_rate": Decimal("0.04"), "rate": Decimal("0.044")}, "expected a rate of at least 0.0490"),
        ({"tenor_days": 91}, "expected at most 90 days"),
        ({"reserve": Money.of("23999.99", "CNY")}, "expected at least the proposed share of the limit in reserve"),
        ({"reserve": Money.of("24000.00", "USD")}, "expected at least the proposed share of the limit in reserve"),
    ],
)
def test_nobody_recommends_terms_better_than_proposed(opened, proposed, change, sentence):
    better = Grant(terms=proposed.model_copy(update=change))

    with pytest.raises(ReviewRefused, match=sentence):
        recommend(opened, better, by="alice", at=at(1), why="a friend")


def test_a_maker_may_recommend_less(opened, proposed):
    less = proposed.model_copy(
        update={
            "limit": Money.of("400000.00", "CNY"),
            "reserve": Money.of("12000.00", "CNY"),
            "base_rate": Decimal("0.05"),
            "rate": Decimal("0.054"),
            "tenor_days": 60,
        }
    )

    closed = _confirm(recommend(opened, Grant(terms=less), by="alice", at=at(1), why="half is enough"))

    assert closed.outcome.terms == less


def test_only_referrals_are_reviewed(decided, risk):
    for decision in (decided(), decided(risk=risk("0.5"))):
        with pytest.raises(ReviewRefused, match="expected a referred decision"):
            open_review("case-1", decision, by="api", at=at(0), why="no reason")


def test_time_does_not_run_backwards(recommended):
    with pytest.raises(ReviewRefused, match="expected a time not before the last step"):
        _confirm(recommended, minute=0)


def test_a_time_without_its_offset_is_refused(opened, proposed):
    with pytest.raises(ReviewRefused, match="expected a time with its offset from UTC"):
        recommend(opened, Grant(terms=proposed), by="alice", at=dt.datetime(2026, 11, 25, 9, 1), why="x")  # noqa: DTZ001


@pytest.mark.parametrize("why", ["", "two\nlines", "x" * 401])
def test_every_step_says_why_in_one_line(opened, proposed, why):
    with pytest.raises(ReviewRefused, match="the step 'recommend': why"):
        recommend(opened, Grant(terms=proposed), by="alice", at=at(1), why=why)


def test_every_state_survives_the_way_through_json(opened, recommended):
    adapter = TypeAdapter(ReviewState)
    for state, kind in ((opened, AwaitingMaker), (recommended, AwaitingChecker), (_confirm(recommended), Closed)):
        read = adapter.validate_json(adapter.dump_json(state))

        assert isinstance(read, kind)
        assert read == state

"""Instalments, repayments, and the watch: warnings, freezes, and who lifts them."""

import hashlib
import json
import shutil
from decimal import Decimal

import pytest

from coordinator.decisions.errors import DecisionUnknown, EventConflict, ReviewRefused, StatusConflict
from coordinator.financing.errors import NotDisbursable
from coordinator.ledger.audit import audit
from policies.screening.lists import DEFAULT_FOLDER

LATE = {"kind": "shipment"}


@pytest.fixture
def approved(desk):
    return desk.decide()["id"]


def rate(decision_id, now):
    return {"kind": "rate", "decision_id": decision_id, "rate_at_decision": "7.00", "rate_now": now}


def test_instalments_up_to_the_limit_and_no_further(desk, approved):
    first = desk.disburse(approved, "100000.00")
    second = desk.disburse(approved, "300000.00")

    assert (first["status"], first["facility"]["available"]["amount"]) == ("disbursed", "300000.00")
    assert second["facility"]["available"]["amount"] in {"0.00", "0"}
    with pytest.raises(NotDisbursable, match="at most 0"):
        desk.disburse(approved, "0.01")
    assert [step.after for step in desk.view(approved).transitions] == ["disbursed", "disbursed"]


def test_nothing_goes_out_in_another_currency_or_under_another_decision(desk, approved, scores):
    with pytest.raises(NotDisbursable):
        desk.disburse(approved, "1.00", currency="USD")
    with pytest.raises(DecisionUnknown):
        desk.disburse(approved, "1.00", tenant="globex")
    scores.pd = "0.5"
    declined = desk.decide()["id"]
    with pytest.raises(StatusConflict, match="declined"):
        desk.disburse(declined, "1.00")
    assert desk.view(approved).facility.disbursed.amount == 0


def test_a_repeated_instalment_under_one_key_goes_out_once(desk, approved):
    first = desk.disburse(approved, "100000.00", key="k")
    again = desk.disburse(approved, "100000.00", key="k")

    assert again == first | {"_replayed": True}
    assert desk.view(approved).facility.disbursed.amount == Decimal(100_000)


@pytest.mark.parametrize(
    ("now", "action", "status"),
    [
        ("7.20", "none", "approved"),
        ("7.21", "warn", "warned"),
        ("6.79", "warn", "warned"),
        ("7.35", "freeze", "frozen"),
    ],
)
def test_a_rate_move_of_3_percent_warns_and_of_5_percent_freezes(desk, approved, now, action, status):
    answer = desk.event(**rate(approved, now))

    assert (answer["_status"], answer["observed"]["action"]) == (201, action)
    assert answer["observed"]["status"] == desk.view(approved).status == status


def test_a_freeze_holds_what_is_not_disbursed_and_leaves_what_is(desk, approved):
    desk.disburse(approved, "100000.00")
    desk.event(**rate(approved, "8.00"))

    with pytest.raises(NotDisbursable, match="frozen"):
        desk.disburse(approved, "1.00")
    shown = desk.view(approved).facility
    assert (shown.disbursed.amount, shown.available.amount, shown.watch) == (Decimal(100_000), 0, "frozen")
    steps = desk.view(approved).transitions
    assert [(step.before, step.after) for step in steps] == [("approved", "disbursed"), ("disbursed", "frozen")]
    assert "RATE_MOVE_FREEZE" in steps[-1].why


def test_a_calm_signal_thaws_nothing_and_a_warning_no_freeze(desk, approved):
    desk.event(**rate(approved, "8.00"))
    desk.event(**rate(approved, "7.00"))
    desk.event(**rate(approved, "7.21"))

    assert desk.view(approved).status == "frozen"


def test_late_shipments_and_refund_spikes_are_seen(desk, approved):
    late = desk.event(kind="shipment", decision_id=approved, days_late=8)
    spike = desk.event(kind="refund", decision_id=approved, recent_rate="0.5", usual_rate="0.01")

    assert late["observed"]["code"] == "LATE_SHIPMENT_WARNING"
    assert spike["observed"]["code"] == "REFUND_SPIKE_FREEZE"
    assert desk.view(approved).status == "frozen"


def test_two_people_lift_a_freeze(desk, approved):
    desk.disburse(approved, "100000.00")
    desk.event(**rate(approved, "8.00"))
    (review,) = desk.financing.reviews("acme", unfinished=True)
    assert (review.about, review.decision_status) == ("freeze", "frozen")

    proposed = desk.propose(review.id, "mei")
    with pytest.raises(ReviewRefused):
        desk.confirm(review.id, "mei", proposed["to_confirm"])
    with pytest.raises(ReviewRefused, match="hash of something"):
        desk.confirm(review.id, "ola", "00" * 32)
    answer = desk.confirm(review.id, "ola", proposed["to_confirm"])

    assert answer["decision_status"] == desk.view(approved).status == "disbursed"
    assert desk.disburse(approved, "1.00")["status"] == "disbursed"


@pytest.mark.parametrize(("first", "second"), [("approve", "decline"), ("decline", "decline"), ("decline", "approve")])
def test_a_freeze_stays_unless_both_lift_it_and_can_be_looked_at_again(desk, approved, first, second):
    desk.event(**rate(approved, "8.00"))
    (review,) = desk.financing.reviews("acme", unfinished=True)
    proposed = desk.propose(review.id, "mei", first)
    desk.confirm(review.id, "ola", proposed["to_confirm"], second)

    assert desk.view(approved).status == "frozen"
    (again,) = desk.financing.reviews("acme", unfinished=True)
    assert again.about == "freeze"
    assert again.id != review.id


def test_the_same_event_is_one_event_under_any_key(desk, approved):
    fields = rate(approved, "7.25") | {"id": "fx-1"}
    first, again = desk.event(**fields), desk.event(**fields)

    assert (first["_status"], again["_status"], again["repeated"]) == (201, 200, True)
    assert len(desk.view(approved).transitions) == 1
    with pytest.raises(EventConflict):
        desk.event(**(fields | {"rate_now": "9.00"}))


def test_a_signal_about_a_decision_without_money_is_refused(desk, scores):
    scores.pd = "0.5"
    declined = desk.decide()["id"]

    with pytest.raises(StatusConflict):
        desk.event(**rate(declined, "9.00"))
    with pytest.raises(DecisionUnknown):
        desk.event("globex", **rate(declined, "9.00"))
    assert desk.count("events") == 0


def test_what_is_paid_back_is_no_longer_owed(desk, approved):
    desk.disburse(approved, "400000.00")
    assert desk.decide(amount="1700000.00")["status"] == "referred"

    part = desk.event(amount="150000.00", repays=approved)
    rest = desk.event(amount="250000.00", repays=approved)

    assert part["repaid"] == {"amount": "150000.00", "currency": "CNY"}
    assert rest["_status"] == 201
    assert desk.view(approved).status == "repaid"
    assert desk.decide(amount="1700000.00")["status"] == "approved"


def test_more_than_is_out_cannot_be_paid_back(desk, approved):
    desk.disburse(approved, "100000.00")

    with pytest.raises(NotDisbursable, match=r"at most 100000\.00 CNY"):
        desk.event(amount="100000.01", repays=approved)
    assert desk.count("events") == 0


def test_a_sanction_that_came_later_stops_the_next_instalment(desk, scores, make_desk, tmp_path):
    approved = desk.decide(applicant={"name": "Quiet Harbour Trading"})["id"]
    lists = shutil.copytree(DEFAULT_FOLDER, tmp_path / "lists")
    _list_party(lists, "Quiet Harbour Trading")
    later = make_desk(scores, lists_folder=lists)

    with pytest.raises(NotDisbursable, match="sanctions list"):
        later.disburse(approved, "1.00")


def _list_party(lists, name):
    folder = lists / "ofac-sdn-sample" / "2026-01-01"
    file = folder / "sdn.csv"
    row = f'990001,"{name}","-0- ","SAMPLE",-0- ,-0- ,-0- ,-0- ,-0- ,-0- ,-0- ,"SAMPLE"\r\n'
    file.write_bytes(row.encode() + file.read_bytes())
    manifest = json.loads((folder / "list.json").read_text())
    manifest["files"]["sdn.csv"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "list.json").write_text(json.dumps(manifest))


def test_every_step_is_in_the_ledger(desk, approved, store):
    desk.disburse(approved, "100000.00")
    desk.event(**rate(approved, "8.00"))

    with store.reading() as connection:
        report = audit(connection)
    assert report.findings == []
    assert report.rows == 3
    assert [step.ledger.entry for step in desk.view(approved).transitions] == [1, 2]

"""What an applicant owes and which documents are lent against, under attack by requests at the same time."""

import hashlib
import json
from decimal import Decimal

import pytest

from coordinator.decisions.store import DecisionStore

CAP = Decimal(5_000_000)


def granted(answers):
    return sum(
        (Decimal(one["outcome"]["terms"]["limit"]["amount"]) for one in answers if one["status"] == "approved"),
        Decimal(0),
    )


def test_what_is_owed_counts_for_the_next_application(desk):
    first = desk.decide(amount="1200000.00")
    second = desk.decide(amount="900000.00")

    assert first["status"] == "approved"
    assert (second["status"], second["outcome"]["reasons"][0]["code"]) == ("referred", "LARGE_EXPOSURE")


def test_another_tenants_applicant_of_the_same_id_owes_nothing_here(desk):
    desk.decide(amount="1900000.00")

    assert desk.decide("globex", amount="1900000.00")["status"] == "approved"


def test_sixteen_applications_at_once_never_share_one_room(desk, request_of):
    """Each alone would be approved: 16 x 400,000 CNY, with two people needed from 2,000,000 CNY on."""
    answers = desk.decide_all([("acme", request_of(amount="400000.00")) for _ in range(16)])

    assert [one for one in answers if isinstance(one, BaseException)] == []
    assert granted(answers) == Decimal(1_600_000)
    assert [one["status"] for one in answers].count("approved") == 4
    assert desk.count("facilities") == 4
    told = [len(desk.view(one["id"]).outcome.model_dump_json()) for one in answers]
    assert len(told) == 16


def test_two_processes_never_share_one_room(desk, make_desk, second_store, scores, request_of):
    """The other process has its own guess of what is owed, and no part in this one's crowd."""
    other = make_desk(scores, store=second_store)
    answers = []
    for _ in range(4):
        answers += desk.decide_all([("acme", request_of(amount="500000.00"))])
        answers += other.decide_all([("acme", request_of(amount="500000.00"))])

    assert granted(answers) == Decimal(1_500_000)


def test_work_that_shares_a_transaction_unseen_is_found_out_by_its_number(desk, request_of, monkeypatch):
    """As if the crowd were in another process: nothing tells that others are at the same applicant."""
    monkeypatch.setattr("coordinator.financing.means.Crowd.at", lambda *_: False)

    answers = desk.decide_all([("acme", request_of(amount="400000.00")) for _ in range(16)])

    assert [one for one in answers if isinstance(one, BaseException)] == []
    assert granted(answers) == Decimal(1_600_000)


def test_one_document_is_lent_against_once_by_sixteen_requests_at_the_same_time(desk, request_of):
    requests = [
        ("acme", request_of(applicant={"id": f"seller-{number}"}, reference="PO-ONE", amount="50000.00"))
        for number in range(16)
    ]

    answers = desk.decide_all(requests)

    assert sorted(one["status"] for one in answers) == ["approved"] + ["declined"] * 15
    declined = next(one for one in answers if one["status"] == "declined")
    assert declined["outcome"]["reasons"][0]["code"] == "DOUBLE_FINANCING"


def test_one_document_is_lent_against_once_when_nothing_tells_of_the_others(desk, request_of, monkeypatch):
    monkeypatch.setattr("coordinator.financing.means.Crowd.at", lambda *_: False)
    requests = [
        (tenant, request_of(applicant={"id": f"seller-{number}"}, reference="PO-ONE", amount="50000.00"))
        for number in range(8)
        for tenant in ("acme", "globex")
    ]

    answers = desk.decide_all(requests)

    assert [one["status"] for one in answers].count("approved") == 1


@pytest.mark.parametrize("written", ["PO-77", "po77", "P.O./7-7"])
def test_a_document_is_found_again_however_its_reference_is_written(desk, written):
    desk.decide(reference="po-77", applicant={"id": "a"})

    assert desk.decide(reference=written, applicant={"id": "b"})["checks"]["double_financing"] == "confirmed"


def test_a_document_of_another_tenant_is_suspected_and_says_nothing_of_whose_it_is(desk):
    desk.decide(reference="PO-SHARED", applicant={"id": "secret-seller"})

    answer = desk.decide("globex", reference="PO-SHARED")

    assert (answer["status"], answer["checks"]["double_financing"]) == ("referred", "suspected")
    assert "acme" not in json.dumps(answer)
    assert "secret-seller" not in json.dumps(answer)
    assert answer["outcome"]["reasons"][0]["code"] == "DOUBLE_FINANCING_SUSPECTED"


def test_a_document_that_was_declined_or_is_only_under_review_is_not_lent_against(desk, scores):
    scores.pd = "0.12"
    assert desk.decide(reference="PO-5", applicant={"id": "a"})["status"] == "referred"
    scores.pd = "0.5"
    assert desk.decide(reference="PO-5", applicant={"id": "b"})["status"] == "declined"
    scores.pd = "0.01"

    assert desk.decide(reference="PO-5", applicant={"id": "c"})["status"] == "approved"


def test_the_store_holds_no_reference_that_can_be_guessed(desk, store):
    desk.decide(reference="PO-GUESS-ME")

    with store.reading() as connection:
        (fingerprint,) = connection.exec_driver_sql("select fingerprint from financed_evidence").scalars()
    for text in (b"PO-GUESS-ME", b"POGUESSME", b"purchase_order\nPOGUESSME"):
        assert bytes(fingerprint) != hashlib.sha256(text).digest()


def test_what_is_owed_survives_a_restart(desk, make_desk, decisions_url, clock, scores):
    desk.decide(amount="1900000.00")
    desk.store.close()
    again = DecisionStore.open(decisions_url, origin="tallystick-ledger/test", clock=clock, survives_power_cut=False)

    answer = make_desk(scores, store=again).decide(amount="400000.00")

    again.close()
    assert answer["status"] == "referred"

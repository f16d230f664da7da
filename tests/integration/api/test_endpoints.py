"""What a client sees of every chapter of the API, over a real database and a really trained model."""

import json

import pytest

from coordinator.ledger.proof_file import verify_evidence
from coordinator.settings import load_coordinator_settings
from policies.agreement import load_agreement
from policies.ledger_keys import ledger_keys
from simulations.api_platform import decision_request

UNKNOWN = "dec-000000000000000000000000000000000000"


def problem(answer, status, name):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["type"] == f"urn:tallystick:problem:{name}"
    assert document["status"] == status
    return document


def settled(number, **changes):
    event = {
        "kind": "payment_settled",
        "id": f"settlement-{number}",
        "occurred_at": "2026-11-25T08:00:00+00:00",
        "applicant": decision_request(number)["applicant"],
        "amount": "300000.00",
        "currency": "CNY",
        "industry": "home",
    }
    return event | changes


# ---- decisions ----


def test_decision_is_taken_stored_explained_and_proved(desk):
    taken = desk.decide(1)
    assert taken.status_code == 201
    decision = taken.json()
    assert taken.headers["location"] == f"/v1/decisions/{decision['id']}"
    assert decision["outcome"]["outcome"] == "approved"
    assert decision["mode"] == "released"

    read = desk.get(taken.headers["location"]).json()
    assert {name: read[name] for name in decision} == decision
    assert read["facility"]["limit"] == decision["outcome"]["terms"]["limit"]
    explained = desk.get(f"/v1/decisions/{decision['id']}/explanation").json()
    assert explained["replayed"]
    proof = desk.get(f"/v1/decisions/{decision['id']}/proof").content
    agreement = load_agreement(load_coordinator_settings(desk.platform.coordinator).agreement_path)
    report = verify_evidence(proof, ledger_keys(agreement))
    assert report.entry == decision["ledger"]["entry"]
    assert report.decision["id"] == decision["id"]


@pytest.mark.parametrize("product", ["order", "receivable", "warehouse_receipt"])
def test_every_product_is_decided_on(desk, product):
    kind = {"order": "purchase_order", "receivable": "receivable", "warehouse_receipt": "stock_appraisal"}[product]
    evidence = [{"kind": kind, "reference": "E-1", "value": {"amount": "90000.00", "currency": "CNY"}}]
    answer = desk.decide(1, product=product, evidence=evidence)
    assert answer.status_code == 201
    assert answer.json()["product"] == product


def test_the_same_request_under_its_key_gives_the_same_bytes_and_decides_once(desk):
    first, again = desk.decide(1, key="same"), desk.decide(1, key="same")
    assert again.content == first.content
    assert again.status_code == first.status_code
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert len(desk.get("/v1/decisions").json()["items"]) == 1


def test_another_request_under_a_used_key_is_refused(desk):
    desk.decide(1, key="same")
    problem(desk.decide(2, key="same"), 422, "idempotency-conflict")


@pytest.mark.parametrize("key", ["", " ", "two words", "ü", "x" * 256])
def test_keys_of_another_form_are_refused(desk, key):
    answer = desk.post("/v1/decisions", decision_request(1), headers={"Idempotency-Key": key.encode()})
    problem(answer, 400, "idempotency-key-missing")


def test_missing_key_is_refused_and_nothing_is_written(desk):
    headers = {"Authorization": f"Bearer {desk.token('platform-app')}"}
    problem(
        desk.request("POST", "/v1/decisions", json=decision_request(1), headers=headers), 400, "idempotency-key-missing"
    )
    assert desk.get("/v1/decisions").json()["items"] == []


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"amount": 40000}, "/amount"),
        ({"amount": "-1"}, "/amount"),
        ({"amount": "1e5"}, "/amount"),
        ({"amount": "0"}, "/amount"),
        ({"currency": "yuan"}, "/currency"),
        ({"tenor_days": 0}, "/tenor_days"),
        ({"tenor_days": "90"}, "/tenor_days"),
        ({"product": "loan"}, "/product"),
        ({"colour": "red"}, "/colour"),
        ({"evidence": "PO-1"}, "/evidence"),
    ],
)
def test_wrong_values_are_named_by_their_place(standing, change, pointer):
    document = problem(standing.decide(1, **change), 422, "invalid-request")
    assert [one["pointer"] for one in document["errors"]] == [pointer]
    assert document["detail"].startswith(f"{pointer}: expected ")


@pytest.mark.parametrize(
    ("body", "status", "name"),
    [
        (b"", 400, "malformed-json"),
        (b"{", 400, "malformed-json"),
        (b'{"amount": NaN}', 400, "malformed-json"),
        (b'{"amount": "1", "amount": "2"}', 400, "malformed-json"),
        (b"\xff\xfe", 400, "malformed-json"),
        (b"[" * 100_000, 400, "malformed-json"),
        (b" " * 300_000, 413, "body-too-large"),
    ],
)
def test_bodies_that_are_no_strict_json_are_refused(standing, body, status, name):
    problem(standing.post("/v1/decisions", body), status, name)


def test_body_without_its_media_type_is_refused(standing):
    answer = standing.post("/v1/decisions", b"{}", headers={"Content-Type": "text/plain"})
    problem(answer, 415, "unsupported-media-type")


def test_features_that_the_model_does_not_take_are_refused_in_one_sentence(standing):
    applicant = decision_request(1)["applicant"] | {"features": {"utilization": 0.3, "age": 45, "shoe_size": 44.0}}
    problem(standing.decide(1, applicant=applicant), 422, "invalid-features")


def test_currency_without_a_rate_is_no_decision(standing):
    evidence = [{"kind": "purchase_order", "reference": "P", "value": {"amount": "5.00", "currency": "XAU"}}]
    problem(standing.decide(1, currency="XAU", evidence=evidence), 422, "no-policy-answer")


def test_pages_follow_each_other_and_hold_everything_once(desk):
    made = [desk.decide(number).json()["id"] for number in range(5)]
    found, cursor = [], ""
    while cursor is not None:
        page = desk.get(f"/v1/decisions?limit=2{cursor and f'&cursor={cursor}'}").json()
        found += [one["id"] for one in page["items"]]
        cursor = page["next"]
    assert found == made[::-1]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "cursor=YQ", "limit=1&limit=2", "colour=red", "a"]
)
def test_queries_that_are_none_are_refused(standing, query):
    assert standing.get(f"/v1/decisions?{query}").status_code in {400, 422}


@pytest.mark.parametrize("path", ["", "/explanation", "/proof", "/events"])
def test_decision_that_is_not_there_is_404(standing, path):
    problem(standing.get(f"/v1/decisions/{UNKNOWN}{path}"), 404, "not-found")


# ---- reviews: two people ----


def referred(desk):
    answer = desk.decide(9, applicant=decision_request(9)["applicant"] | {"country": "IR"})
    decision = answer.json()
    assert decision["status"] in {"referred", "declined"}, decision
    return decision


def large(desk):
    value = {"amount": "4900000.00", "currency": "CNY"}
    evidence = [{"kind": "purchase_order", "reference": "PO-L", "value": value}]
    decision = desk.decide(9, amount="3900000.00", evidence=evidence).json()
    assert decision["status"] == "referred", decision
    return decision


def test_large_case_takes_two_people_and_nobody_checks_herself(desk):
    decision = large(desk)
    review = desk.get("/v1/reviews?unfinished=true", by="bank-maker").json()["items"][0]
    assert review["decision"] == decision["id"]
    verdict = {"verdict": "approve", "why": "Documents seen."}
    proposed = desk.post(f"/v1/reviews/{review['id']}/proposal", verdict, by="bank-maker").json()
    confirmation = verdict | {"confirms": proposed["to_confirm"]}
    alone = desk.post(f"/v1/reviews/{review['id']}/confirmation", confirmation, by="bank-maker")
    problem(alone, 409, "conflict")
    done = desk.post(f"/v1/reviews/{review['id']}/confirmation", confirmation, by="bank-checker")
    assert done.status_code == 200, done.text
    assert done.json()["decision_status"] == "approved"
    steps = desk.get(f"/v1/decisions/{decision['id']}").json()["transitions"]
    assert [step["after"] for step in steps][-1] == "approved"


def test_sanctioned_country_is_never_approved(desk):
    assert referred(desk)["outcome"]["reasons"]


# ---- events and offers ----


def test_settled_payment_brings_an_offer_that_can_be_accepted_once(desk):
    event = desk.post("/v1/events", settled(1))
    assert event.status_code == 201, event.text
    offer = event.json()["offer"]
    assert offer["status"] == "open"
    assert [one["id"] for one in desk.get("/v1/offers?open_only=true").json()["items"]] == [offer["id"]]
    accepted = desk.post(f"/v1/offers/{offer['id']}/acceptance")
    assert accepted.json()["status"] == "accepted"
    problem(desk.post(f"/v1/offers/{offer['id']}/acceptance"), 409, "conflict")
    assert desk.get(f"/v1/decisions/{offer['decision']}").json()["status"] == "approved"


def test_event_that_was_reported_before_does_nothing_again(desk):
    first, again = desk.post("/v1/events", settled(1)), desk.post("/v1/events", settled(1))
    assert again.status_code == 200
    assert again.json()["repeated"]
    assert len(desk.get("/v1/offers").json()["items"]) == 1
    assert first.json()["offer"] is not None
    problem(desk.post("/v1/events", settled(1, amount="5.00")), 409, "conflict")


def test_rate_move_freezes_what_is_not_paid_out(desk):
    decision = desk.decide(1).json()
    event = {
        "kind": "rate",
        "id": "fx-1",
        "occurred_at": "2026-11-25T08:00:00+00:00",
        "decision_id": decision["id"],
        "rate_at_decision": "7.00",
        "rate_now": "7.40",
    }
    assert desk.post("/v1/events", event).json()["observed"]["action"] == "freeze"
    payment = {"amount": "100.00", "currency": "CNY", "why": "First instalment."}
    problem(desk.post(f"/v1/decisions/{decision['id']}/disbursements", payment), 409, "conflict")


def test_paying_out_is_bounded_by_the_limit(desk):
    decision = desk.decide(1).json()
    limit = decision["outcome"]["terms"]["limit"]
    path = f"/v1/decisions/{decision['id']}/disbursements"
    over = {"amount": "5000000.00", "currency": "CNY", "why": "Too much."}
    problem(desk.post(path, over), 409, "conflict")
    assert desk.post(path, limit | {"why": "All of it."}).json()["facility"]["available"]["amount"] == "0.00"


def test_steps_of_a_decision_are_followed_to_their_end(desk):
    decision = large(desk)
    review = desk.get("/v1/reviews?unfinished=true").json()["items"][0]
    verdict = {"verdict": "decline", "why": "No."}
    proposed = desk.post(f"/v1/reviews/{review['id']}/proposal", verdict, by="bank-maker").json()
    confirmation = verdict | {"confirms": proposed["to_confirm"]}
    assert desk.post(f"/v1/reviews/{review['id']}/confirmation", confirmation, by="bank-checker").status_code == 200
    stream = desk.get(f"/v1/decisions/{decision['id']}/events")
    assert stream.headers["content-type"].startswith("text/event-stream")
    *steps, end, rest = stream.text.split("\n\n")
    assert rest == ""
    assert end.startswith("event: end")
    assert json.loads(steps[-1].split("data: ")[1])["after"] == "declined"
    assert steps[0].startswith("id: 1\nevent: transition")


# ---- scores ----


def test_scores_alone_and_as_lines(standing):
    applicant = {"features": {"utilization": 0.3, "age": 45, "income": 5400.0}}
    alone = standing.post("/v1/scores", applicant)
    assert alone.status_code == 200, alone.text
    lines = b"\n".join([json.dumps(applicant).encode(), b'{"features": {}}', json.dumps(applicant).encode()])
    answer = standing.post("/v1/scores/batch", lines, headers={"Content-Type": "application/x-ndjson"})
    first, second, third = map(json.loads, answer.text.splitlines())
    assert first == third == alone.json()
    assert second["line"] == 2
    assert second["problem"]["status"] == 422

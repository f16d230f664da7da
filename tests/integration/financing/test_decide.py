"""An application to a decision: checked, scored, decided, recorded with its ledger entry, answered once."""

import asyncio
import hashlib
import json
from decimal import Decimal

import pytest
import sqlalchemy as sa

from coordinator.decisions.errors import DecisionUnknown, IdempotencyConflict
from coordinator.decisions.records import WebhookEndpoint
from coordinator.decisions.store import EVERY_TENANT
from coordinator.financing.case import DecisionDocument
from coordinator.financing.errors import ApplicantRefused
from coordinator.ledger.audit import audit
from models.scoring import score_frame
from policies.decision_tables.errors import PolicyRefused


def codes(answer):
    return [reason["code"] for reason in answer["outcome"].get("reasons", [])]


def test_a_good_application_is_approved_on_terms_with_its_score_policy_and_entry(real, model, store):
    answer = real.decide()

    assert (answer["_status"], answer["status"], answer["outcome"]["outcome"]) == (201, "approved", "approved")
    assert answer["outcome"]["terms"]["limit"] == {"amount": "400000.00", "currency": "CNY"}
    framed = score_frame(model, {"utilization": [0.05], "age": [70], "income": [5400.0]})
    assert abs(Decimal(answer["score"]["pd_12m"]) - Decimal(float(framed.pd[0]))) < Decimal("1e-8")
    assert answer["score"]["model_version"] == model.version
    assert answer["policy"]["versions"]["fx"] == "2026-07-01"
    assert answer["mode"] == "released"
    assert answer == json.loads(real.view(answer["id"]).model_dump_json(exclude={"transitions", "facility"})) | {
        "_status": 201,
        "_replayed": False,
    }
    stored = store.decision("acme", answer["id"])
    assert stored.entry == answer["ledger"]["entry"]
    assert real.view(answer["id"]).facility.available.amount == Decimal("400000.00")


def test_the_same_request_under_its_key_is_answered_again_and_done_once(desk):
    first = desk.decide(key="k", reference="PO-A")
    second = desk.decide(key="k", reference="PO-A")

    assert second == first | {"_replayed": True}
    assert desk.count("decisions") == 1
    with pytest.raises(IdempotencyConflict):
        desk.decide(key="k", reference="PO-B")


def test_a_decision_its_answer_its_entry_and_its_webhooks_are_one_transaction(
    desk, store, listening, monkeypatch, delivered
):
    monkeypatch.setattr(store, "new_id", lambda prefix, real=store.new_id: real(prefix) if prefix != "del" else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        desk.decide(key="k")
    monkeypatch.undo()

    for table in (
        "decisions",
        "ledger_entries",
        "facilities",
        "financed_evidence",
        "idempotency_keys",
        "webhook_outbox",
    ):
        assert desk.count(table) == 0, table
    answer = desk.decide(key="k")
    ((topic, tenant, payload),) = delivered()
    assert (topic, tenant) == ("decision.created", "acme")
    assert payload["data"] == {k: v for k, v in answer.items() if not k.startswith("_")}


def test_a_tenant_sees_no_decision_of_another(desk):
    answer = desk.decide()

    with pytest.raises(DecisionUnknown):
        desk.view(answer["id"], tenant="globex")
    with pytest.raises(DecisionUnknown):
        desk.financing.explanation("globex", answer["id"])
    assert desk.financing.decisions("globex") == ((), None)
    assert desk.financing.decision(EVERY_TENANT, answer["id"]).id == answer["id"]


def test_pages_of_decisions_go_on_where_the_last_one_ended(desk):
    made = [desk.decide(applicant={"id": f"seller-{number}"})["id"] for number in range(5)]

    first, before = desk.financing.decisions("acme", limit=3)
    second, end = desk.financing.decisions("acme", limit=3, before=before)

    assert [one.id for one in (*first, *second)] == made[::-1]
    assert end is None


def test_a_sanctioned_name_is_blocked_and_a_high_risk_country_referred(desk, store):
    named = desk.decide(applicant={"id": "a", "name": "Osip Maratovich Valdrenko"})
    country = desk.decide(applicant={"id": "b", "country": "KP"})
    monitored = desk.decide(applicant={"id": "c", "country": "MM"})

    assert (named["outcome"]["outcome"], named["checks"]["screening"]) == ("declined", "blocked")
    assert "NAME_SANCTIONED" in codes(named)
    assert (country["outcome"]["outcome"], country["checks"]["screening"]) == ("declined", "blocked")
    assert (monitored["outcome"]["outcome"], monitored["checks"]["screening"]) == ("referred", "referred")


def test_no_name_and_no_country_stands_in_the_ledger(desk, store):
    desk.decide(applicant={"name": "Quetzalcoatl Trading", "id": "seller-quetzal"})

    with store.reading() as connection:
        bodies = " ".join(connection.execute(sa.text("select body from ledger_entries")).scalars())
    assert "uetzal" not in bodies
    assert "acme" not in bodies


def test_a_receivable_needs_order_invoice_and_transport_document_that_agree(desk):
    def documents(*stated):
        return [
            {
                "kind": kind,
                "reference": f"{kind}-{amount}-{number}",
                "value": amount and {"amount": amount, "currency": "CNY"},
            }
            for number, (kind, amount) in enumerate(stated)
        ]

    order, invoice, transport = "purchase_order", "receivable", "transport_document"
    agree = desk.decide(
        product="receivable", evidence=documents((order, "500000"), (invoice, "500000.00"), (transport, None))
    )
    alone = desk.decide(product="receivable", evidence=documents((invoice, "500001")))
    differ = desk.decide(
        product="receivable", evidence=documents((order, "500000"), (invoice, "500002"), (transport, None))
    )

    assert agree["checks"]["three_way_match"] == "matched"
    assert agree["outcome"]["outcome"] == "approved"
    assert (alone["outcome"]["outcome"], codes(alone)) == ("referred", ["THREE_WAY_PENDING"])
    assert (differ["outcome"]["outcome"], codes(differ)) == ("declined", ["THREE_WAY_MISMATCH"])


def test_all_three_products_are_decided(desk):
    stock = [{"kind": "stock_appraisal", "reference": "W-1", "value": {"amount": "900000", "currency": "CNY"}}]

    answer = desk.decide(product="warehouse_receipt", evidence=stock, amount="700000.00")

    assert answer["outcome"]["terms"]["limit"] == {"amount": "630000.00", "currency": "CNY"}


def test_what_a_model_cannot_score_is_refused_before_anything_is_written(real):
    for features, expected in (
        ({"utilization": 0.3, "age": 45.5}, "'age'"),
        ({"utilization": 0.3, "age": 45, "colour": 1}, "1 more"),
        ({"age": 45}, "'utilization'"),
    ):
        with pytest.raises(ApplicantRefused, match=expected):
            real.decide(applicant={"features": features})
    with pytest.raises(ApplicantRefused, match="send features"):
        real.decide(applicant={"features": None, "entity": "ab" * 32, "grant": "aaaa"})
    assert real.count("ledger_entries") == 0


def test_a_currency_without_a_rate_is_no_decision(desk):
    with pytest.raises(PolicyRefused, match="XAU"):
        desk.decide(currency="XAU")
    assert desk.count("decisions") == 0


def test_one_document_written_twice_is_refused_however_it_is_spelt(request_of):
    twice = [
        {"kind": "purchase_order", "reference": reference, "value": {"amount": "1", "currency": "CNY"}}
        for reference in ("PO-1", "po 1".replace(" ", ""))
    ]
    with pytest.raises(ValueError, match="every document once"):
        request_of(evidence=twice)


def test_a_changed_table_changes_decisions_without_a_restart_and_the_old_one_stays_explained(desk, folder, edited):
    before = desk.decide(applicant={"id": "a"})

    def lower(content):
        for row in content["jdm"]["nodes"][1]["content"]["rules"]:
            row["out_advance_rate"] = '"0.25"' if row["_id"] == "order" else row["out_advance_rate"]

    edited(folder / "product" / "2026-01-01.json", lower)
    edited(
        folder / "product" / "2026-01-01.cases.json", lambda content: _set_everywhere(content, "0.80", "0.25", "order")
    )
    for path in (folder / "decisions").iterdir():
        path.unlink()
    after = desk.decide(applicant={"id": "b"})

    assert before["outcome"]["terms"]["limit"]["amount"] == "400000.00"
    assert after["outcome"]["terms"]["limit"]["amount"] == "200000.00"
    assert before["policy"]["sha256"] != after["policy"]["sha256"]
    for answer, row in ((before, "advance_rate"), (after, "advance_rate")):
        told = desk.financing.explanation("acme", answer["id"])
        assert told.replayed
        assert told.policy_sha256 == answer["policy"]["sha256"]
        assert any("limit" in line for line in told.lines), row


def _set_everywhere(content, old, new, word):
    for case in content["cases"]:
        if word in json.dumps(case):
            text = json.dumps(case).replace(f'"{old}"', f'"{new}"')
            case.clear()
            case.update(json.loads(text))


def test_every_acknowledged_decision_has_its_entry_and_the_audit_finds_nothing(real, store):
    answers = [
        real.decide(applicant={"id": f"s-{n}", "features": {"utilization": n / 3, "age": 40}}) for n in range(12)
    ]

    assert {answer["outcome"]["outcome"] for answer in answers} == {"approved", "referred", "declined"}
    assert sorted(answer["ledger"]["entry"] for answer in answers) == list(range(12))
    with store.reading() as connection:
        assert audit(connection).findings == []
    document = DecisionDocument.of(store.decision("acme", answers[0]["id"]))
    assert document.party.name == "Lantern Home Goods Ltd"
    assert "features" not in store.decision("acme", answers[0]["id"]).record.document


def test_a_repeated_key_while_the_first_is_under_way_is_one_decision(desk, request_of):
    request = request_of(reference="PO-SAME")
    digest = hashlib.sha256(b"x").digest()

    async def twice():
        return await asyncio.gather(
            *(desk.financing.decide("acme", "platform-a", request, key="one", request_hash=digest) for _ in range(8))
        )

    answers = asyncio.run(twice())

    assert len({answer.body for answer in answers}) == 1
    assert sum(not answer.replayed for answer in answers) == 1
    assert (desk.count("decisions"), desk.count("facilities")) == (1, 1)


def test_a_new_endpoint_is_told_of_the_next_decision_once_the_use_cases_know(desk, store, delivered):
    desk.decide(applicant={"id": "a"})
    endpoint = WebhookEndpoint(
        id="end-1",
        tenant="acme",
        url="https://x.example/",
        key_id="k",
        topics=("decision.created",),
        created_at=desk.clock(),
    )
    store.commit_blocking(lambda writes: writes.add_endpoint(endpoint))
    desk.financing.endpoints_changed("acme")

    told = desk.decide(applicant={"id": "b"})
    desk.event()

    assert [payload["data"]["id"] for _, _, payload in delivered()] == [told["id"]]


def test_a_stored_decision_that_was_changed_is_not_replayed(desk, store, sql):
    answer = desk.decide()
    sql("update decisions set document = replace(document, '400000.00', '500000.00')")

    assert not desk.financing.explanation("acme", answer["id"]).replayed
    with store.reading() as connection:
        assert audit(connection).findings != []

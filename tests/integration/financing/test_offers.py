"""Pay-triggered finance: a settled payment makes a pre-approved offer by itself, which is accepted or ends."""

import asyncio
import datetime as dt
from decimal import Decimal

import pytest

from coordinator.decisions.errors import EventConflict, OfferClosed
from coordinator.financing.errors import OfferNoLongerHolds, OfferUnknown
from coordinator.ledger.audit import audit


def test_a_settled_payment_makes_an_offer_by_itself_with_its_entry_and_webhook(desk, listening, delivered, store):
    answer = desk.event()

    offer = answer["offer"]
    assert answer["_status"] == 201
    assert (offer["status"], offer["product"], offer["applicant"]) == ("open", "order", "seller-1")
    assert offer["terms"]["limit"] == {"amount": "150000.00", "currency": "CNY"}
    assert offer["event"] == answer["id"]
    assert offer["expires_at"] == "2026-12-02T00:00:00Z"
    view = desk.view(offer["decision"])
    assert (view.status, view.outcome.outcome, view.facility) == ("offered", "approved", None)
    assert desk.financing.explanation("acme", offer["decision"]).replayed
    ((topic, _, payload),) = delivered()
    assert (topic, payload["data"]) == ("offer.created", offer)
    with store.reading() as connection:
        report = audit(connection)
    assert (report.findings, report.rows) == ([], 2)


def test_an_offer_is_accepted_and_can_be_disbursed(desk):
    offer = desk.event()["offer"]

    accepted = desk.accept(offer["id"])

    assert (accepted["_status"], accepted["status"]) == (200, "accepted")
    view = desk.view(offer["decision"])
    assert view.status == "approved"
    assert [(step.before, step.after, step.actor) for step in view.transitions] == [
        ("offered", "approved", "platform-a")
    ]
    assert desk.disburse(offer["decision"], "150000.00")["status"] == "disbursed"


def test_an_offer_is_accepted_once(desk):
    offer = desk.event()["offer"]
    first = desk.accept(offer["id"], key="k")

    assert desk.accept(offer["id"], key="k") == first | {"_replayed": True}
    with pytest.raises(OfferClosed):
        desk.accept(offer["id"])
    assert desk.count("facilities") == 1


def test_the_same_settlement_makes_one_offer_whatever_the_key_and_the_features(desk):
    fields = {"id": "settlement-1"}
    first = desk.event(**fields)
    again = desk.event(**fields, applicant={"features": {"utilization": 0.1, "age": 71}})

    assert (again["_status"], again["repeated"], again["offer"]) == (200, True, first["offer"])
    assert (desk.count("offers"), desk.count("decisions")) == (1, 1)
    with pytest.raises(EventConflict):
        desk.event(**fields, amount="999999.00")


def test_a_settlement_that_triggers_nothing_says_why_and_is_kept(desk, scores):
    little = desk.event(amount="1000.00")
    scores.pd = "0.2"
    risky = desk.event()

    assert (little["offer"], [one["code"] for one in little["no_offer"]]) == (None, ["OFFER_SETTLED_TOO_LITTLE"])
    assert [one["code"] for one in risky["no_offer"]] == ["OFFER_NOT_FORESEEN"]
    assert (desk.count("events"), desk.count("offers"), desk.count("ledger_entries")) == (2, 0, 0)


def test_no_offer_is_made_to_a_sanctioned_party_or_without_a_score(desk, scores):
    named = desk.event(applicant={"name": "Osip Maratovich Valdrenko"})
    scores.changes = {"missing": "The gateway was down.", "degraded": True}
    unscored = desk.event()

    assert named["no_offer"][0]["code"] == "OFFER_NOT_APPROVED"
    assert [one["code"] for one in unscored["no_offer"]] == ["SCORE_MISSING"]


def test_an_offer_past_its_day_is_expired_when_somebody_looks(desk, clock):
    offer = desk.event()["offer"]
    clock.move(days=6, hours=14, minutes=59)
    assert desk.financing.offer("acme", offer["id"]).status == "open"

    clock.move(minutes=1)

    assert desk.financing.offer("acme", offer["id"]).status == "expired"
    assert desk.financing.offers("acme", open_only=True) == ((), None)
    with pytest.raises(OfferClosed):
        desk.accept(offer["id"])
    view = desk.view(offer["decision"])
    assert (view.status, [step.actor for step in view.transitions]) == ("expired", ["policy"])
    with pytest.raises(OfferClosed):
        desk.accept(offer["id"])
    assert desk.count("facilities") == 0


def test_an_offer_reserves_no_room_and_does_not_hold_when_there_is_none_any_more(desk, scores):
    offer = desk.event(amount="1500000.00")["offer"]
    assert Decimal(offer["terms"]["limit"]["amount"]) == Decimal(750_000)
    desk.decide(amount="1900000.00")

    with pytest.raises(OfferNoLongerHolds, match="LARGE_EXPOSURE"):
        desk.accept(offer["id"])
    assert desk.financing.offer("acme", offer["id"]).status == "open"
    assert desk.view(offer["decision"]).status == "offered"


def test_sixteen_offers_accepted_at_once_never_share_one_room(desk):
    offers = [desk.event(amount="1000000.00")["offer"]["id"] for _ in range(16)]

    async def together():
        calls = (desk.calling("accept_offer", "acme", "platform-a", offer) for offer in offers)
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = asyncio.run(together())

    refused = [one for one in answers if isinstance(one, BaseException)]
    assert {type(one) for one in refused} == {OfferNoLongerHolds}
    assert len(answers) - len(refused) == desk.count("facilities") == 3


def test_offers_are_the_tenants_own(desk):
    offer = desk.event()["offer"]["id"]

    with pytest.raises(OfferUnknown):
        desk.accept(offer, tenant="globex")
    with pytest.raises(OfferUnknown):
        desk.financing.offer("globex", offer)
    assert desk.financing.offers("globex") == ((), None)


def test_a_real_model_scores_the_settlement(real):
    answer = real.event(applicant={"features": {"utilization": 0.01, "age": 85, "income": 9000}})

    assert answer["offer"] is not None or answer["no_offer"]
    assert dt.datetime.fromisoformat(answer["offer"]["made_at"]) == real.clock.now

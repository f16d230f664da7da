"""Two people decide what was referred: the maker's verdict, then another person's."""

import pytest

from coordinator.decisions.errors import ReviewRefused
from coordinator.financing.errors import ReviewUnknown


@pytest.fixture
def referred(desk):
    return desk.decide(amount="2000000.00")


def test_a_referral_opens_a_review_and_two_people_approve_it(desk, listening, referred, delivered):
    review = referred["review"]
    (waiting,) = desk.financing.reviews("acme", unfinished=True)
    assert (waiting.id, waiting.decision, waiting.about) == (review, referred["id"], "referral")

    proposed = desk.propose(review, "mei@bank.example")
    answer = desk.confirm(review, "ola@bank.example", proposed["to_confirm"])

    assert (answer["status"], answer["decision_status"]) == ("closed", "approved")
    view = desk.view(referred["id"])
    assert view.status == "approved"
    (step,) = view.transitions
    assert (step.before, step.after, step.actor) == ("referred", "approved", "ola@bank.example")
    assert "mei@bank.example" in step.why
    assert view.facility.limit == view.outcome.proposed.limit
    assert desk.financing.reviews("acme", unfinished=True) == ()
    assert sorted(topic for topic, _, _ in delivered()) == ["decision.created", "decision.moved"]


def test_the_maker_cannot_be_the_checker(desk, referred):
    proposed = desk.propose(referred["review"], "mei")

    with pytest.raises(ReviewRefused):
        desk.confirm(referred["review"], "mei", proposed["to_confirm"])
    assert desk.view(referred["id"]).status == "referred"


@pytest.mark.parametrize("spelling", ["Mei", "mei ", "MEI"])
def test_another_spelling_makes_no_second_person(desk, referred, spelling):
    proposed = desk.propose(referred["review"], "mei")

    with pytest.raises(ReviewRefused, match="one spelling"):
        desk.confirm(referred["review"], spelling, proposed["to_confirm"])


def test_who_brought_the_case_in_cannot_be_its_checker(desk):
    referred = desk.decide(actor="mei", amount="2000000.00")
    proposed = desk.propose(referred["review"], "ola")

    with pytest.raises(ReviewRefused, match="bring"):
        desk.confirm(referred["review"], "mei", proposed["to_confirm"])


def test_what_is_confirmed_is_what_was_read(desk, referred):
    desk.propose(referred["review"], "mei")

    with pytest.raises(ReviewRefused, match="hash of something else"):
        desk.confirm(referred["review"], "ola", "00" * 32)
    assert desk.view(referred["id"]).transitions == ()


def test_two_people_who_decline_decline(desk, referred):
    proposed = desk.propose(referred["review"], "mei", "decline", "the buyer is insolvent")

    answer = desk.confirm(referred["review"], "ola", proposed["to_confirm"], "decline")

    assert answer["decision_status"] == desk.view(referred["id"]).status == "declined"
    assert desk.view(referred["id"]).facility is None


def test_a_checker_who_disagrees_sends_it_back_and_no_maker_can_check_the_next_round(desk, referred):
    proposed = desk.propose(referred["review"], "mei")
    desk.confirm(referred["review"], "ola", proposed["to_confirm"], "decline", "documents missing")

    assert desk.view(referred["id"]).status == "referred"
    (again,) = desk.financing.reviews("acme", unfinished=True)
    assert "documents missing" in again.why
    proposed = desk.propose(again.id, "ola", why="documents are here now")
    with pytest.raises(ReviewRefused, match="recommended nothing"):
        desk.confirm(again.id, "mei", proposed["to_confirm"])
    assert desk.confirm(again.id, "ida", proposed["to_confirm"])["decision_status"] == "approved"


def test_a_closed_review_takes_no_third_verdict(desk, referred):
    proposed = desk.propose(referred["review"], "mei")
    with pytest.raises(ReviewRefused):
        desk.propose(referred["review"], "ola")
    desk.confirm(referred["review"], "ola", proposed["to_confirm"])

    for step in (
        lambda: desk.propose(referred["review"], "ida"),
        lambda: desk.confirm(referred["review"], "ida", proposed["to_confirm"]),
    ):
        with pytest.raises(ReviewRefused):
            step()


def test_two_people_cannot_lend_what_there_is_no_room_for_any_more(desk):
    """Both referrals fit under the cap alone, and not together."""
    both = [desk.decide(amount="3000000.00") for _ in range(2)]
    readied = [(one["review"], desk.propose(one["review"], "mei")["to_confirm"]) for one in both]

    assert desk.confirm(readied[0][0], "ola", readied[0][1])["decision_status"] == "approved"
    with pytest.raises(ReviewRefused, match=r"at most 2000000\.00 CNY could be lent"):
        desk.confirm(readied[1][0], "ola", readied[1][1])
    assert desk.view(both[1]["id"]).status == "referred"


def test_two_people_cannot_lend_against_a_document_that_the_tenant_lends_against_since(desk):
    referred = desk.decide(amount="2000000.00", reference="PO-9")
    proposed = desk.propose(referred["review"], "mei")
    desk.decide(applicant={"id": "other"}, amount="100000.00", reference="PO-9")

    with pytest.raises(ReviewRefused, match="DOUBLE_FINANCING"):
        desk.confirm(referred["review"], "ola", proposed["to_confirm"])


def test_two_people_may_lend_against_a_document_that_is_only_suspected(desk):
    desk.decide(reference="PO-9", amount="100000.00")
    suspected = desk.decide("globex", reference="PO-9", amount="100000.00")
    proposed = desk.propose(suspected["review"], "mei", tenant="globex")

    answer = desk.confirm(suspected["review"], "ola", proposed["to_confirm"], tenant="globex")

    assert answer["decision_status"] == "approved"
    assert desk.count("financed_evidence") == 2


def test_reviews_are_the_tenants_own(desk, referred):
    for step in (
        lambda: desk.propose(referred["review"], "mei", tenant="globex"),
        lambda: desk.confirm(referred["review"], "mei", "00" * 32, tenant="globex"),
    ):
        with pytest.raises(ReviewUnknown):
            step()
    assert desk.financing.reviews("globex") == ()

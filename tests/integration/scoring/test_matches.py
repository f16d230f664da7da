"""Three-way match and double financing through the real gateway and responders: who answers, for how long, and probing."""

import numpy as np
import pytest

from models.score_slots import ScoreSlots
from nodes.scoring_tables import EntityTable
from policies.documents import KINDS, TASK, VERSION, document_token, match_of
from protos.scoring.v1.scoring_pb2 import StoredDisclosure
from simulations.scoring_consortium import TASK as SCORES

INVOICE = {
    "seller_tax_id": "DE811128135",
    "buyer_tax_id": "FR40303265045",
    "date": "2026-11-02",
    "amount": "1200.00",
    "currency": "EUR",
}
REQUIRED = ("paid", "amount", "shipped")


@pytest.fixture(autouse=True)
def documents_are_allowed(three):
    three.policy_changes = {"tasks": (SCORES, TASK), "answers_per_entity": 50}


def document(scoring, number):
    return document_token(scoring.consortium.token_key, INVOICE | {"number": str(number)})


def book(evidence):
    """A member's table: token -> kinds of evidence."""
    slots = np.array([[kind in kinds for kind in KINDS] for kinds in evidence.values()], dtype=np.int64)
    return EntityTable.of(ScoreSlots.of_documents(), list(evidence), slots.reshape(-1, len(KINDS)))


async def match(scoring, *tokens):
    answers = await scoring.ask(*tokens, task=TASK, model_version=VERSION)
    if isinstance(answers, str):
        return answers
    return [match_of([bool(bit) for bit in answer.total], REQUIRED)[0] for answer in answers]


def test_evidence_of_several_members_makes_a_match(three):
    one, two, three_ = (document(three, number) for number in range(3))
    three.books = {
        "bank-1": book({two: {"pledged"}}),
        "payment-1": book({one: {"paid", "amount"}, two: {"paid", "amount"}}),
        "logistics-1": book({one: {"shipped"}, two: {"shipped"}}),
    }

    assert three.run(lambda: match(three, one, two, three_)) == ["matched", "already financed", "not matched"]


def test_c7_double_financing_looks_the_same_whoever_and_however_many_financed_it(three):
    once, twice, all_ = (document(three, number) for number in range(3))
    three.books = {
        "bank-1": book({once: {"pledged"}, twice: {"pledged"}, all_: {"pledged"}}),
        "payment-1": book({twice: {"pledged"}, all_: {"pledged"}}),
        "logistics-1": book({all_: {"pledged"}}),
    }

    async def script():
        answers = await three.ask(once, twice, all_, task=TASK, model_version=VERSION)
        return [answer.total.tolist() for answer in answers]

    assert len({tuple(total) for total in three.run(script)}) == 1


def test_node_without_books_uploads_like_any_other(three):
    token = document(three, 0)
    three.books = {"payment-1": book({token: {"paid"}})}

    async def script():
        (answer,) = await three.ask(token, task=TASK, model_version=VERSION)
        return answer.opened.survivors

    assert three.run(script) == three.consortium.members


def test_node_whose_policy_does_not_name_the_task_answers_nothing_about_documents(three):
    three.policy_changes = {}

    assert three.run(lambda: match(three, document(three, 0))) == "task"


def test_what_is_pledged_counts_from_the_next_quarter_of_an_hour_on(three):
    token = document(three, 0)
    before, after = book({token: {"shipped"}}), book({token: {"shipped", "pledged"}})
    three.books = {"bank-1": before}

    async def script():
        found = [await match(three, token)]
        three.nodes["bank-1"].responder._tables[TASK, VERSION] = after
        found.append(await match(three, token))
        three.clock.at_s += 900
        three.gateway.streams.epoch.began_s -= 900
        return [*found, await match(three, token)]

    assert three.run(script) == [["not matched"], ["not matched"], ["already financed"]]


def test_c8_guessing_of_fingerprints_raises_an_alarm_at_the_node_and_nothing_is_refused(three):
    """The gateway sees the same answers before and after: a refusal would tell it what the node knows (C5)."""
    three.policy_changes |= {"unknown_documents": 5}
    known = [document(three, number) for number in range(10)]
    three.books = {"payment-1": book({token: {"paid"} for token in known})}

    async def script():
        found = await match(three, *known)
        for number in range(100, 112):
            found += await match(three, document(three, number))
        return found, {member: [e.note for e in alarms_of(node)] for member, node in three.nodes.items()}

    found, alarms = three.run(script)
    assert found == ["not matched"] * 22
    assert {member: len(notes) for member, notes in alarms.items()} == dict.fromkeys(three.consortium.members, 1)
    assert all("guessing fingerprints" in note for notes in alarms.values() for note in notes)


def test_c8_count_of_unknown_documents_outlives_the_process(three):
    three.policy_changes |= {"unknown_documents": 5}

    async def script():
        await match(three, *(document(three, number) for number in range(4)))
        for member in three.consortium.members:
            await three.disconnect(member)
        await three.connect(*three.consortium.members)
        await match(three, *(document(three, number) for number in range(10, 13)))
        return [len(alarms_of(node)) for node in three.nodes.values()]

    assert three.run(script) == [1, 1, 1]


def test_c8_documents_asked_about_in_a_day_are_bounded_for_known_and_unknown_alike(three):
    three.policy_changes |= {"distinct_entities": 3}
    known = [document(three, number) for number in range(3)]
    three.books = {"payment-1": book({token: {"paid"} for token in known})}

    async def script():
        found = []
        for tokens in (known, [document(three, 50)]):
            found += [await match(three, *tokens)]
        return found

    assert three.run(script) == [["not matched"] * 3, "daily_cap"]


def alarms_of(node):
    return [entry for entry in node.journal.entries() if entry.event == StoredDisclosure.ALARM]

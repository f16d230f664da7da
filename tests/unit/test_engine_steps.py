"""Steps over an in-process Grid whose messages are lost, late, doubled or answered wrongly."""

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from coordinator.engine.grid_steps import GridSteps
from nodes.flower_app import client_app
from simulations.in_process import InProcessGrid, TickingClock, in_process_steps

MEMBERS = ("bank-a", "bank-b", "bank-c")


def reverse(_action, body):
    return body[::-1]


def handlers(handle=reverse):
    return dict.fromkeys(MEMBERS, handle)


def bodies(body=b"abc"):
    return dict.fromkeys(MEMBERS, body)


def once(member, fault):
    """A fault of the first message to one member."""
    return lambda m, _action, attempt: fault if (m, attempt) == (member, 0) else None


@pytest.mark.parametrize("wire", [False, True])
@pytest.mark.parametrize("body", [b"", b"abc", bytes(3_000_000)])
def test_every_member_answers_its_own_body(wire, body):
    outcome = in_process_steps(handlers(), wire=wire).run_step("reverse", bodies(body), deadline_s=10)
    assert outcome.replies == bodies(body[::-1])
    assert (outcome.refusals, outcome.silent) == ({}, frozenset())


@pytest.mark.parametrize("fault", ["lost", "offline", "late"])
def test_member_whose_message_or_answer_is_lost_is_sent_the_same_bytes_again(fault):
    outcome = in_process_steps(handlers(), once("bank-b", fault)).run_step("reverse", bodies(), deadline_s=10)
    assert outcome.replies == bodies(b"cba")
    assert outcome.bytes_down == {"bank-a": 3, "bank-b": 6, "bank-c": 3}


def test_member_that_stays_silent_is_named_at_the_deadline_and_the_others_answers_are_kept():
    steps = in_process_steps(handlers(), lambda member, *_: "lost" if member == "bank-c" else None)
    outcome = steps.run_step("reverse", bodies(), deadline_s=10)
    assert outcome.silent == {"bank-c"}
    assert outcome.replies == {"bank-a": b"cba", "bank-b": b"cba"}
    assert outcome.elapsed_s >= 10


def test_resends_grow_rarer_while_a_member_stays_silent():
    calls = []

    def faults(member, _action, attempt):
        calls.append((member, attempt))
        return "lost"

    in_process_steps({"bank-a": reverse}, faults).run_step("reverse", {"bank-a": b""}, deadline_s=16)
    assert [attempt for _, attempt in calls] == [0, 1, 2, 3, 4], "after 1, 3, 7 and 15 of 16 seconds"


def test_second_answer_to_a_doubled_message_is_ignored():
    seen = []

    def count(_action, body):
        seen.append(body)
        return str(len(seen)).encode()

    outcome = in_process_steps({"bank-a": count}, once("bank-a", "duplicate")).run_step(
        "count", {"bank-a": b""}, deadline_s=10
    )
    assert outcome.replies == {"bank-a": b"1"}
    assert len(seen) == 2


def test_answer_to_an_earlier_step_is_not_taken_for_this_one():
    steps = in_process_steps({"bank-a": reverse}, lambda _m, action, _n: "late" if action == "first" else None)
    first = steps.run_step("first", {"bank-a": b"1"}, deadline_s=0.5)
    second = steps.run_step("second", {"bank-a": b"2"}, deadline_s=0.5)
    assert first.silent == {"bank-a"}
    assert second.replies == {"bank-a": b"2"}


def test_step_ends_as_soon_as_enough_have_answered():
    steps = in_process_steps(handlers(), lambda member, *_: "lost" if member == "bank-c" else None)
    outcome = steps.run_step("reverse", bodies(), deadline_s=10, enough=lambda replies: len(replies) >= 2)
    assert outcome.replies.keys() == {"bank-a", "bank-b"}
    assert outcome.silent == {"bank-c"}
    assert outcome.elapsed_s == 0


def test_app_that_dies_over_a_message_is_a_refusal_without_details():
    outcome = in_process_steps(handlers(), once("bank-b", "raise")).run_step("reverse", bodies(), deadline_s=10)
    assert outcome.refusals["bank-b"].code == "InternalError"
    assert outcome.replies.keys() == {"bank-a", "bank-c"}


def test_member_that_is_not_admitted_is_silent():
    outcome = in_process_steps(handlers()).run_step("reverse", {"stranger": b"", "bank-a": b"x"}, deadline_s=1)
    assert outcome.silent == {"stranger"}
    assert outcome.replies == {"bank-a": b"x"}


@pytest.mark.parametrize(
    "records",
    [
        {},
        {"reply": ConfigRecord({"body": "text"})},
        {"reply": ConfigRecord({"other": b""})},
        {"refusal": ConfigRecord({"code": "C"})},
        {"refusal": ConfigRecord({"code": 3, "sentence": "s"})},
    ],
)
def test_answer_of_other_records_is_a_refusal_that_says_so(records):
    app = ClientApp()

    @app.query("step")
    def step(message, _context):
        return Message(RecordDict(records), reply_to=message)

    grid, clock = InProcessGrid({"bank-a": app}), TickingClock()
    steps = GridSteps(grid, grid.node_ids, clock=clock, pause=clock.pause)
    outcome = steps.run_step("any", {"bank-a": b""}, deadline_s=1)
    assert outcome.refusals["bank-a"].code == "MalformedReply"


def test_node_answers_a_message_of_other_records_with_a_refusal():
    grid = InProcessGrid({"bank-a": client_app(reverse)})
    message = Message(RecordDict({"step": ConfigRecord({"action": 7})}), grid.node_ids["bank-a"], "query.step")
    (reply,) = grid.send_and_receive([message])
    assert reply.content["refusal"]["code"] == "MalformedStep"


def test_waiting_for_members_returns_those_that_are_there_at_the_deadline():
    steps = in_process_steps(handlers())
    assert steps.online() == set(MEMBERS)
    assert steps.wait_online(["bank-a", "stranger"], deadline_s=5) == {"bank-a"}

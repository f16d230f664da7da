"""Members that drop out: what survives it, what waits, and what is given up with a sentence (rules A6, A7, E2)."""

import pytest

from coordinator.driver import Waiting
from coordinator.sum_round import RunFailed
from protos.runs.v1 import runs_pb2
from simulations.in_process_consortium import DEFAULT_RUN_ID

MEMBERS = tuple(f"bank-{number}" for number in range(1, 6))
REQUESTS = {
    "contribute": runs_pb2.ContributeRequest,
    "seeds": runs_pb2.SeedsRequest,
    "shares": runs_pb2.SharesRequest,
}
TRAINING_SUM = 1


def number_of(action, body):
    return REQUESTS[action].FromString(body).k if action in REQUESTS else -1


def losing(lost, *, when, answered=False):
    """A relay that loses messages: `when(member, action, k)`; with `answered` the node has acted, unheard."""

    def relay(member, action, body, deliver):
        if not when(member, action, number_of(action, body)):
            return deliver(body)
        if answered:
            deliver(body)
        raise lost

    return relay


def survivors_of(outcome):
    return [entry.survivors for entry in outcome.released.table.sums]


def events_of(consortium, name):
    return [event.details for event in consortium.events() if event.event == name]


# ---- n = 5 tolerates one ----


@pytest.mark.parametrize("answered", [False, True], ids=["unheard_of", "answer_lost"])
def test_fedavg_goes_on_without_the_member_that_misses_a_sum_whoever_it_is(found, averaging_run, lost, answered):
    """Sum k loses member k. `answer_lost`: it contributed, so it finds itself left out and says so in its journal."""
    when = lambda member, action, k: action == "contribute" and k > 0 and member == f"bank-{k}"  # noqa: E731
    consortium = found(5, losing(lost, when=when, answered=answered), allow_roster_change=True)
    outcome = consortium.run(averaging_run.model_copy(update={"rounds": 5}))

    without = [tuple(m for m in MEMBERS if m != gone) for gone in MEMBERS]
    assert survivors_of(outcome) == [MEMBERS, *without, MEMBERS]
    assert [details["members"] for details in events_of(consortium, "dropped")] == [[gone] for gone in MEMBERS]
    assert set(outcome.released.signatures) == set(MEMBERS)
    for member, store in consortium.node_stores.items():
        alarms = [event for _, _, event, _ in store.journal_entries() if event.startswith("alarm")]
        assert alarms == ["alarm: left out of a sum this node contributed to"] * answered, member


def test_fedavg_goes_on_without_a_member_that_never_returns(found, averaging_run, lost):
    gone = lambda m, action, k: m == "bank-2" and action in REQUESTS and k >= TRAINING_SUM  # noqa: E731
    consortium = found(5, losing(lost, when=gone), allow_roster_change=True)
    outcome = consortium.run(averaging_run)

    rest = tuple(m for m in MEMBERS if m != "bank-2")
    assert survivors_of(outcome) == [MEMBERS, rest, rest, rest]
    assert set(outcome.released.signatures) == set(rest)


@pytest.mark.parametrize("answered", [False, True], ids=["unheard_of", "answer_lost"])
def test_a_sum_opens_although_a_member_that_uploaded_gives_no_shares_whoever_it_is(
    found, averaging_run, lost, answered
):
    """T + 1 answers are enough, so its contribution counts."""
    when = lambda member, action, k: action == "shares" and k > 0 and member == f"bank-{k}"  # noqa: E731
    consortium = found(5, losing(lost, when=when, answered=answered), allow_roster_change=True)

    assert survivors_of(consortium.run(averaging_run.model_copy(update={"rounds": 5}))) == [MEMBERS] * 7


def test_a_member_that_uploaded_and_is_gone_at_the_seeds_ends_a_sum_that_needs_it(found, averaging_run, lost):
    """One is gone already and five tolerate no second: nothing is opened."""

    def when(member, action, k):
        return k == TRAINING_SUM and (member == "bank-1" or (member == "bank-2" and action == "seeds"))

    consortium = found(5, losing(lost, when=when), allow_roster_change=True)
    with pytest.raises(RunFailed, match=r"Sum 1 was given up, nothing was opened: .* at least 4 survivors, found 3"):
        consortium.run(averaging_run)
    assert_given_up(consortium, opened=1)


def test_two_members_that_drop_between_upload_and_seeds_are_borne_where_eight_are(found, averaging_run, lost):
    """(8,1,6,5): one misses the upload, another the seeds; the survivors are asked again for the larger D."""

    def when(member, action, k):
        return k == TRAINING_SUM and (member == "bank-1" or (member == "bank-2" and action == "seeds"))

    consortium = found(8, losing(lost, when=when), allow_roster_change=True)
    outcome = consortium.run(averaging_run)

    assert survivors_of(outcome)[TRAINING_SUM] == tuple(f"bank-{number}" for number in range(3, 9))


@pytest.mark.parametrize("k", [0, TRAINING_SUM, 3])
def test_two_members_too_few_abort_the_sum_before_anything_is_revealed(found, averaging_run, lost, k):
    asked = []

    def relay(member, action, body, deliver):
        number = number_of(action, body)
        if number == k and action in ("seeds", "shares"):
            asked.append(action)
        if number == k and member in ("bank-4", "bank-5"):
            raise lost
        return deliver(body)

    consortium = found(5, relay, allow_roster_change=True)
    with pytest.raises(RunFailed, match=rf"Sum {k} was given up, nothing was revealed: .* at least 4 survivors"):
        consortium.run(averaging_run)
    assert asked == []
    assert_given_up(consortium, opened=k)


def assert_given_up(consortium, *, opened):
    status, reason = next((s, r) for run, s, r in consortium.store.runs() if run == DEFAULT_RUN_ID)
    assert status == "failed"
    assert "given up" in reason or "stayed away" in reason
    assert consortium.store.num_finished_sums(DEFAULT_RUN_ID) == opened
    assert events_of(consortium, "failed") == [{"reason": reason}]
    assert not events_of(consortium, "released")
    for store in consortium.node_stores.values():
        record = store.run(DEFAULT_RUN_ID)
        assert record.phase == "ended"
        assert record.state == record.memory == store.blob(DEFAULT_RUN_ID, "upload") == b""


# ---- newton waits ----


@pytest.mark.parametrize("action", ["contribute", "shares"])
def test_newton_waits_for_a_member_and_goes_on_when_it_is_back(found, short_run, lost, action):
    """Without the flag the roster is frozen; of three members each one's shares are needed too."""
    absences, statuses = [], []

    def relay(member, message, body, deliver):
        if (member, message, number_of(message, body)) == ("bank-2", action, 2) and len(absences) < 3:
            absences.append(message)
            raise lost
        if absences:
            statuses.append(consortium.store.run(DEFAULT_RUN_ID).status)
        return deliver(body)

    consortium = found(3, relay)
    outcome = consortium.run(short_run)

    assert outcome.released.table.quality is not None
    assert survivors_of(outcome) == [MEMBERS[:3]] * 4
    assert "paused" in statuses
    assert statuses[-1] == "running"
    assert events_of(consortium, "paused")[0] == {"reason": "sum 2 waits for bank-2", "members": ["bank-2"]}


def test_newton_gives_the_model_of_an_undisturbed_run_after_a_pause(found, short_run, lost):
    absences = []

    def when(member, action, k):
        if (member, action, k) == ("bank-3", "contribute", 1) and len(absences) < 2:
            absences.append(action)
            return True
        return False

    paused = found(3, losing(lost, when=when)).run(short_run)
    assert len(absences) == 2
    assert paused.artefact == found(3).run(short_run).artefact


def test_newton_without_the_flag_ends_when_a_member_stays_away(found, short_run, lost):
    when = lambda member, action, k: member == "bank-5" and k >= 2  # noqa: E731
    consortium = found(5, losing(lost, when=when), waiting=Waiting(step_deadline_s=10, pause_limit_s=45))
    with pytest.raises(RunFailed, match=r"Sum 2 needs bank-5, who stayed away .* allow_roster_change"):
        consortium.run(short_run)
    assert 4 <= len(events_of(consortium, "paused")) <= 6
    assert_given_up(consortium, opened=2)


def test_newton_with_the_flag_waits_first_and_then_goes_on_without_the_member(found, short_run, lost):
    when = lambda member, action, k: member == "bank-5" and k >= 2  # noqa: E731
    waiting = Waiting(step_deadline_s=10, pause_limit_s=60)
    consortium = found(5, losing(lost, when=when), allow_roster_change=True, waiting=waiting)

    assert survivors_of(consortium.run(short_run)) == [MEMBERS, MEMBERS, MEMBERS[:4], MEMBERS[:4]]
    assert events_of(consortium, "paused")


@pytest.mark.parametrize("method", ["averaging_run", "short_run"])
def test_a_member_missing_at_the_first_sum_stays_out_of_training_without_the_flag(found, lost, request, method):
    when = lambda member, action, k: (member, action, k) == ("bank-5", "contribute", 0)  # noqa: E731
    outcome = found(5, losing(lost, when=when)).run(request.getfixturevalue(method))

    bins, *training = survivors_of(outcome)
    assert bins == MEMBERS[:4]
    assert all(survivors in (MEMBERS, MEMBERS[:4]) for survivors in training)
    assert len(set(training)) == 1


# ---- n = 3 tolerates nobody ----


@pytest.mark.parametrize("member", MEMBERS[:3])
def test_three_members_abort_the_first_sum_at_any_loss(found, short_run, lost, member):
    when = lambda m, action, k: m == member and k == 0  # noqa: E731
    consortium = found(3, losing(lost, when=when))
    with pytest.raises(RunFailed, match=r"Sum 0 was given up, nothing was revealed: .* at least 3 survivors, found 2"):
        consortium.run(short_run)
    assert_given_up(consortium, opened=0)


@pytest.mark.parametrize("action", ["contribute", "shares"])
def test_three_members_end_a_later_sum_when_one_stays_away(found, short_run, lost, action):
    when = lambda m, message, k: (m, message) == ("bank-1", action) and k == 2  # noqa: E731
    consortium = found(3, losing(lost, when=when), waiting=Waiting(step_deadline_s=10, pause_limit_s=30))
    with pytest.raises(RunFailed, match=r"Sum 2 needs (shares of )?bank-1, who stayed away for 30 s"):
        consortium.run(short_run)
    assert_given_up(consortium, opened=2)


# ---- before the first sum ----


@pytest.mark.parametrize("action", ["join", "cohort"])
def test_a_member_that_never_answers_before_the_first_sum_fails_the_run_with_a_sentence(found, short_run, lost, action):
    consortium = found(3, losing(lost, when=lambda m, message, k: (m, message) == ("bank-1", action)))
    with pytest.raises(RunFailed, match=r"did not answer|confirmed"):
        consortium.run(short_run)


def test_the_next_member_deals_when_the_first_dealer_is_silent(found, short_run, lost):
    silent = []

    def relay(member, action, body, deliver):
        answer = deliver(body)
        if action == "cohort" and runs_pb2.CohortReply.FromString(answer).deals and not silent:
            silent.append(member)
            raise lost
        return answer

    consortium = found(3, relay)
    consortium.run(short_run)
    assert events_of(consortium, "dealer silent") == [{"dealer": silent[0]}]
    assert events_of(consortium, "keyed")[0]["dealer"] != silent[0]


def test_members_deal_in_turn_until_everybody_has_confirmed(found, short_run, lost):
    """A member that no deal reaches still has its own turn to deal."""
    consortium = found(3, losing(lost, when=lambda member, action, k: (member, action) == ("bank-1", "deal")))
    consortium.run(short_run)
    assert events_of(consortium, "keyed")[0]["dealer"] == "bank-1"

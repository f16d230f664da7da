"""A coordinator killed at any step takes its run up again from its store, and the members learn the same model."""

import pytest

from protos.runs.v1 import runs_pb2
from simulations.in_process_consortium import DEFAULT_RUN_ID

STEPS_OF_A_SHORT_RUN = 12
"""cosign, join, cohort, deal, 3 sums of contribute and shares, the final contribute, artefact."""


class KilledAt:
    """Steps that kill the coordinator once: before step number `index` is sent, or after all have answered it."""

    def __init__(self, steps, killed, index=None, *, after=False):
        self.steps, self.killed, self.index, self.after = steps, killed, index, after
        self.actions = []

    def run_step(self, action, bodies, **options):
        here = len(self.actions) == self.index
        self.actions.append(action)
        if here and not self.after:
            raise self.killed
        outcome = self.steps.run_step(action, bodies, **options)
        if here:
            raise self.killed
        return outcome

    def online(self):
        return self.steps.online()

    def wait_online(self, members, *, deadline_s):
        return self.steps.wait_online(members, deadline_s=deadline_s)


@pytest.fixture(scope="module")
def short_run(short_run):
    """One round of training is enough here."""
    return short_run.model_copy(update={"rounds": 1})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, found_in, short_run, killed):
    """Version of the model that nobody disturbed."""
    with found_in(tmp_path_factory.mktemp("undisturbed")) as consortium:
        consortium.steps = KilledAt(consortium.steps, killed)
        version = consortium.run(short_run).released.table.model_digest
        assert len(consortium.steps.actions) == STEPS_OF_A_SHORT_RUN
    return version


@pytest.mark.parametrize("after", [False, True], ids=["before_it_is_sent", "after_it_is_answered"])
@pytest.mark.parametrize("index", range(STEPS_OF_A_SHORT_RUN))
def test_a_coordinator_killed_at_any_step_finishes_the_run_with_the_same_model(
    found, short_run, undisturbed, killed, index, after
):
    consortium = found()
    consortium.steps = KilledAt(consortium.steps, killed, index, after=after)
    with pytest.raises(killed):
        consortium.run(short_run)
    consortium.restart_coordinator()

    assert consortium.drive().released.table.model_digest == undisturbed


@pytest.mark.parametrize("action", ["seeds", "shares", "contribute"])
@pytest.mark.parametrize("after", [False, True], ids=["before_it_is_sent", "after_it_is_answered"])
def test_a_coordinator_killed_while_a_member_is_missing_finishes_the_run(
    found, averaging_run, killed, lost, action, after
):
    """With somebody dropped the nodes have given seeds, or shares too, when they are asked for the seeds again."""
    at = {"seeds": 6, "shares": 7, "contribute": 8}[action]  # sum 1: contribute is step 6

    def relay(member, action, body, deliver):
        if member == "bank-2" and action == "contribute" and runs_pb2.ContributeRequest.FromString(body).k == 1:
            raise lost
        return deliver(body)

    consortium = found(5, relay, allow_roster_change=True)
    consortium.steps = steps = KilledAt(consortium.steps, killed)
    steps.index, steps.after = at + 1, after
    with pytest.raises(killed):
        consortium.run(averaging_run)
    assert steps.actions[-1] == action
    consortium.restart_coordinator()
    outcome = consortium.drive()

    assert [entry.dropped for entry in outcome.released.table.sums] == [(), ("bank-2",), (), ()]


def test_a_run_that_finished_is_not_driven_into_a_second_model(found, short_run, driver_of):
    """Between release and the finished mark a crash makes the driver ask once more; the answer is the same."""
    consortium = found()
    first = consortium.run(short_run)
    consortium.restart_coordinator()
    again = consortium.drive()
    driver_of(consortium).finish(DEFAULT_RUN_ID)

    assert again.artefact == first.artefact
    assert again.released.to_json() == first.released.to_json()
    assert [phase for store in consortium.node_stores.values() for _, phase, _, _ in store.runs()] == ["ended"] * 3

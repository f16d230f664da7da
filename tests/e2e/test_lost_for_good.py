"""kill -9 of a node that nobody starts again, in a cohort of five: where the agreement allows it, the run goes on."""

import pytest

from policies.agreement import PrivacyTerms

pytestmark = pytest.mark.acceptance

LOST = "bank-e"
STEP_DEADLINE_S = 5.0
TERMS = {"min_cohort": 4, "max_colluders": 1, "min_survivors": 4, "shamir_threshold": 3}
AVERAGING = {"method": "fedavg", "rounds": 4}
LAST_SUM = 5
"""Of such a run: bins, four rounds, evaluation."""


@pytest.fixture(scope="module")
def found(launch):
    def start(*, allow_roster_change):
        privacy = PrivacyTerms(**TERMS, allow_roster_change=allow_roster_change)
        return launch(5, privacy=privacy, step_deadline_s=STEP_DEADLINE_S, mortal_for_good=[LOST])

    return start


@pytest.fixture(scope="module")
def tolerant(found):
    return found(allow_roster_change=True)


@pytest.mark.parametrize(
    ("point", "first_sum_without"),
    [("before contribute 2", 2), ("after contribute 2", 2), ("before shares 2", 3)],
    ids=["before it contributes", "before its contribution is sent", "with its contribution in the sum"],
)
def test_averaging_run_goes_on_without_a_member_where_the_agreement_allows_it(tolerant, point, first_sum_without):
    if tolerant.processes[LOST].exit_code is not None:
        tolerant.processes.restart(LOST)
        tolerant.wait_online(LOST)
    tolerant.order(LOST, point)
    run_id = tolerant.propose(**AVERAGING)
    model = tolerant.finish(run_id)

    assert tolerant.processes[LOST].exit_code == -9
    assert model.rounds == AVERAGING["rounds"]
    survivors = [event.details["survivors"] for event in tolerant.events(run_id, "opened")]
    assert survivors == [5] * first_sum_without + [4] * (LAST_SUM + 1 - first_sum_without)
    dropped = [(event.details["k"], event.details["members"]) for event in tolerant.events(run_id, "dropped")]
    assert dropped == [(k, [LOST]) for k in range(first_sum_without, LAST_SUM + 1)]


def test_averaging_run_pauses_for_a_member_without_the_flag_and_goes_on_when_it_returns(found):
    strict = found(allow_roster_change=False)
    strict.order(LOST, "after contribute 2")
    run_id = strict.propose(**AVERAGING)
    paused = strict.wait_event(run_id, "paused")

    assert paused.details == {"reason": f"sum 2 waits for {LOST}", "members": [LOST]}
    assert strict.processes[LOST].exit_code == -9
    with strict.store() as store:
        assert (store.run(run_id).status, store.run(run_id).reason) == ("paused", f"sum 2 waits for {LOST}")
    strict.processes.restart(LOST)
    strict.finish(run_id)
    assert [event.details["survivors"] for event in strict.events(run_id, "opened")] == [5] * (LAST_SUM + 1)

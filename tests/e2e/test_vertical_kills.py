"""kill -9 in a vertical run, over real processes and mutual TLS: a lost training starts again, and the run ends.

Bank, payment institution and logistics firm, one member each; every process has a supervisor that starts it again.
"""

import json

import pytest

pytestmark = pytest.mark.acceptance

PASSES = 2
"""A training that is killed and started again then asks the labels at most eight times (rule B5)."""


@pytest.fixture(scope="module")
def fleet(launch_roles):
    with launch_roles() as fleet:
        yield fleet


def released(fleet, run_id):
    folder = fleet.consortium.coordinator_state / "runs" / run_id / "credit"
    return json.loads((folder / "released.json").read_text())


def test_a_node_and_the_coordinator_are_killed_in_training_and_the_run_ends_with_a_signed_model(fleet):
    fleet.order("payment-a", "after vertical 4")
    run_id = fleet.propose(method="vertical", passes=PASSES)
    fleet.wait_event(run_id, "pass", number=1)
    fleet.kill("coordinator")
    fleet.wait_event(run_id, "finished")

    assert len(fleet.deaths("payment-a")) == 1
    assert fleet.restarts("payment-a") == 1
    assert fleet.restarts("coordinator") == 1
    assert len(fleet.events(run_id, "training")) >= 2
    table = released(fleet, run_id)
    assert set(table["signatures"]) == {"bank-a"}
    assert table["table"]["quality"]["auc"] > 0.7
    version = table["table"]["federated_version"]
    for member in fleet.members:
        assert (fleet.consortium.folder / member / "state" / "towers" / f"credit.{version}.json").exists()


def test_a_second_run_over_labels_that_were_asked_enough_is_refused_with_the_rule(fleet):
    run_id = fleet.propose(method="vertical", passes=7)
    failed = fleet.until(lambda: fleet.events(run_id, "failed"), waiting_for="the end of the run")

    assert "rule B5" in failed[0].details["reason"]

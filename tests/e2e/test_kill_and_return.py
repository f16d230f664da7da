"""kill -9 of nodes and of the coordinator at every stage of a run: it finishes with the model of an undisturbed run.

Three banks, none of which a sum may do without; every process has a supervisor that starts it again.
"""

import json
import re
import sqlite3
import time
from contextlib import closing

import numpy as np
import pytest

pytestmark = pytest.mark.acceptance

TOLERANCE = 1e-6
NUM_SUMS = 8
"""Of a run on these rows: bins, six of newton, evaluation."""


@pytest.fixture(scope="module")
def fleet(launch):
    with launch(3) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def undisturbed(fleet):
    """The model of a run in which nothing happens, proposed on the command line."""
    train = ["train", "--json", "--task", "credit", "--purpose", "credit-model-training"]
    process = fleet.processes.start("train", *train, "--settings", str(fleet.consortium.coordinator_settings))
    fleet.until(lambda: process.exit_code is not None, waiting_for="the end of tallystick train")
    assert process.exit_code == 0, process.text()
    last = json.loads(process.text().splitlines()[-1])
    assert last["event"] == "finished"
    assert [event.details["k"] for event in fleet.events(last["run_id"], "opened")] == list(range(NUM_SUMS))
    return fleet.model(last["run_id"])


@pytest.fixture
def disturbed(fleet, undisturbed, report_recovery):
    """Runs newton while processes die at ordered points; the model must be the undisturbed one, the restarts counted."""

    def run(orders):
        before = {name: fleet.restarts(name) for name in orders}
        for name, points in orders.items():
            fleet.order(name, *points)
        run_id = fleet.propose()
        assert_same(fleet.finish(run_id), undisturbed)
        for name, points in orders.items():
            deaths = fleet.until(
                lambda: len(fleet.deaths(name)) == len(points) and fleet.deaths(name),  # noqa: B023 - called at once
                waiting_for=f"the death of {name}",
            )
            fleet.until(lambda: fleet.restarts(name) == before[name] + len(points))  # noqa: B023
            for point, died in zip(points, deaths, strict=True):
                report_recovery(f"{fleet.recovery_s(run_id, died):6.1f}  {name}, {point}")
        assert_keys_deleted(fleet, run_id)

    return run


def assert_same(model, reference):
    assert model.bins == reference.bins
    np.testing.assert_allclose(model.parameters, reference.parameters, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(model.means, reference.means, rtol=0, atol=TOLERANCE)


def assert_keys_deleted(fleet, run_id):
    """Every member learns that the run is over, even if somebody died at that moment."""

    def phase(member):
        state = fleet.consortium.node_settings(member).parent / "state" / "node.sqlite"
        with closing(sqlite3.connect(f"file:{state}?mode=ro", uri=True)) as db:
            return db.execute("select phase, length(state) from runs where run_id = ?", (run_id,)).fetchone()

    for member in fleet.members:
        fleet.until(lambda: phase(member) == ("ended", 0), waiting_for=f"{member} to delete the keys")  # noqa: B023


# Nodes and coordinator take turns, so that a supervisor sees a service that works between two deaths and not a loop.
@pytest.mark.parametrize(
    "orders",
    [
        {"bank-a": ["after cosign"]},
        {"bank-b": ["after join"]},
        {"coordinator": ["after set_proposal", "before set_epoch", "after set_epoch"]},
        {"bank-a": ["after cohort"], "bank-b": ["after cohort"], "bank-c": ["after cohort"]},
        {"bank-c": ["after contribute 0"]},
        {"bank-b": ["before contribute 1", "after contribute 1", "after shares 1"]},
        {"coordinator": ["after fix_survivors 3"]},
        {"bank-a": ["after contribute 3"]},
        {"bank-c": ["before shares 4"]},
        {"bank-b": ["after shares 4"]},
        {"coordinator": ["before finish_sum 3", "after finish_sum 4"]},
        {"bank-a": [f"after contribute {NUM_SUMS}"]},
        {"bank-c": ["after end"]},
        {"coordinator": ["after evidence", "before finish"]},
        {"bank-a": ["after artefact"]},
        {"coordinator": ["after fix_survivors 3"], "bank-b": ["after contribute 3"], "bank-c": ["after shares 3"]},
        {"coordinator": ["after close_run"]},
    ],
    ids=[
        "a node that has co-signed",
        "a node that has joined",
        "the coordinator in the key epoch",
        "dealer and receivers of the sealing key",
        "a node in the first sum",
        "a node again and again in one sum",
        "the coordinator between both exchanges of a sum",
        "a node before its contribution leaves",
        "a node before it answers for its peers",
        "a node after it has answered for its peers",
        "the coordinator in two sums",
        "a node that releases",
        "a node that has deleted its keys",
        "the coordinator while it writes the evidence",
        "a node that hands over the model",
        "coordinator and nodes in one sum",
        "the coordinator before it tells the members that the run is over",
    ],
)
def test_run_survives_the_death_between_writing_and_sending_of(disturbed, orders):
    disturbed(orders)


@pytest.mark.parametrize("victims", [["bank-b"], ["coordinator"], ["coordinator", "bank-a", "bank-b", "bank-c"]])
def test_run_survives_a_kill_from_outside_while_it_trains(fleet, undisturbed, victims, report_recovery):
    services = [fleet.service(name) for name in victims]
    run_id = fleet.propose()
    fleet.wait_event(run_id, "opened", k=2)
    for service in services:
        service.kill()
    killed_at = time.time()
    assert_same(fleet.finish(run_id), undisturbed)
    report_recovery(f"{fleet.recovery_s(run_id, killed_at):6.1f}  {' and '.join(victims)}, from outside")
    assert all(not service.is_running() for service in services)
    assert_keys_deleted(fleet, run_id)


def test_coordinator_that_is_stopped_in_a_run_takes_it_up_when_it_is_started_again(fleet, undisturbed):
    fleet.order("bank-b", "before contribute 3")
    run_id = fleet.propose()
    fleet.until(lambda: fleet.deaths("bank-b"))
    assert fleet.processes.stop("bank-b") == 0  # else the run would be over before the coordinator has stopped
    assert fleet.processes.stop("coordinator") == 0
    with fleet.store() as store:
        assert store.run(run_id).status == "running"
    fleet.processes.restart("coordinator")
    fleet.processes.restart("bank-b")
    assert_same(fleet.finish(run_id), undisturbed)


def test_coordinator_without_a_fixed_port_comes_back_on_the_one_it_had(launch):
    listening = r"listening on 127\.0\.0\.1:(\d+)\n"
    with launch(3, start=False) as fleet:
        fleet.start("coordinator", "--fleet-port", "0")
        fleet.processes.wait_for("coordinator", listening, deadline_s=120)
        fleet.kill("coordinator")
        first, second = fleet.until(
            lambda: len(ports := re.findall(listening, fleet.processes["coordinator"].text())) == 2 and ports,
            waiting_for="the coordinator's second start",
        )
    assert first == second

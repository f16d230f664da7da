"""A consortium of real processes over mutual TLS, each under its supervisor, for runs in which some are killed."""

import datetime as dt
import math
import secrets
import socket
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from coordinator.request import RunRequest
from coordinator.store import CoordinatorStore
from models.artefact import load_model
from policies.agreement import ModelTerms
from policies.proposal import MethodSettings
from simulations.consortium import PURPOSE, TASK, found
from simulations.datasets.role_data_set import RoleDataSet
from simulations.dealing import deal_shares
from simulations.population import synthetic_population
from simulations.processes import Processes
from simulations.role_dealing import deal_roles, members_by_role
from simulations.roles import found_dealt

MORTAL = Path(__file__).with_name("mortal.py")
PATIENCE_S = 240.0
"""A bound for a machine that does much else beside; nothing here takes long on an idle one."""
LOOK_AGAIN_S = 0.01
ROWS = 3000
GMSC_DEMO_ROLES = {
    "bank": ("revolving_utilization", "age", "debt_ratio", "monthly_income", "dependents"),
    "payment": ("past_due_30_59", "past_due_60_89", "past_due_90"),
    "logistics": ("open_credit_lines", "real_estate_loans"),
}


RECOVERIES = pytest.StashKey[list[str]]()


def pytest_configure(config):
    config.stash[RECOVERIES] = []


def pytest_terminal_summary(terminalreporter, config):
    if config.stash[RECOVERIES]:
        terminalreporter.section("seconds from a kill to the next opened sum")
        for line in config.stash[RECOVERIES]:
            terminalreporter.write_line(line)


@pytest.fixture
def report_recovery(pytestconfig):
    """Takes lines for the end of the report: figures, of which no test depends."""
    return pytestconfig.stash[RECOVERIES].append


class Fleet:
    """A founded consortium and its running processes.

    Runs follow each other on the same processes, as they would in a deployment.
    """

    def __init__(self, consortium, processes, orders, port):
        self.consortium = consortium
        self.port = port
        self.processes = processes
        self.members = consortium.members
        self._orders = orders
        self._never = threading.Event()

    # -- processes --------------------------------------------------------------------------------------

    def start(self, name, *options, restart=True):
        """Start the coordinator or a member's node, under its supervisor or alone."""
        side = "coordinator" if name == "coordinator" else "node"
        options = (*options, "--restart") if restart else options
        self.processes.start_python(name, str(MORTAL), side, "run", *options, "--settings", str(self._settings(name)))

    def _settings(self, name):
        if name == "coordinator":
            return self.consortium.coordinator_settings
        return self.consortium.node_settings(name)

    def start_all(self, *, mortal_for_good=()):
        """Start everybody; `mortal_for_good` have no supervisor."""
        for name in ("coordinator", *self.members):
            self.start(name, restart=name not in mortal_for_good)
        for member in self.members:
            self.wait_online(member)

    def wait_online(self, member):
        self.processes.wait_for(member, r"^online", deadline_s=PATIENCE_S)

    def service(self, name):
        """The process that does the work: the supervisor's child."""
        return self.until(lambda: next(iter(psutil.Process(self.processes[name].pid).children()), None))

    def kill(self, name):
        """kill -9 of the service; its supervisor lives."""
        self.service(name).kill()

    def order(self, name, *points):
        """Have a process kill itself at these points in turn, see `mortal.py`."""
        (self._orders / f"{name}.died").unlink(missing_ok=True)
        draft = self._orders / f".{name}"
        draft.write_text("\n".join(points))
        draft.replace(self._orders / name)

    def deaths(self, name):
        """When a process carried out its orders."""
        note = self._orders / f"{name}.died"
        return [float(line) for line in note.read_text().splitlines()] if note.exists() else []

    def restarts(self, name):
        """How often the supervisor started it again, since it was itself started."""
        return self.processes[name].text().count("; restart ")

    # -- runs -------------------------------------------------------------------------------------------

    def store(self):
        return closing(CoordinatorStore(self.consortium.coordinator_state))

    def propose(self, **settings):
        """Queue a run as `tallystick train` does."""
        run_id = f"run-{secrets.token_hex(6)}"
        request = RunRequest(task=TASK, purpose=PURPOSE, settings=MethodSettings(**settings))
        with self.store() as store:
            store.queue_run(run_id, request.to_bytes())
        return run_id

    def events(self, run_id, name=None):
        with self.store() as store:
            return [event for event in store.events(run_id) if name in (None, event.event)]

    def wait_event(self, run_id, name, *, deadline_s=PATIENCE_S, **details):
        """Wait for a line of public progress; a run that failed meanwhile fails the test."""
        with self.store() as store:

            def look():
                events = store.events(run_id)
                for event in events:
                    if event.event == name and details.items() <= event.details.items():
                        return event
                    assert event.event != "failed", event.details
                return None

            return self.until(look, deadline_s=deadline_s, waiting_for=f"{name} {details or ''} of {run_id}")

    def finish(self, run_id, *, deadline_s=PATIENCE_S):
        """Wait for a run's end; its model."""
        self.wait_event(run_id, "finished", deadline_s=deadline_s)
        return self.model(run_id)

    def model(self, run_id):
        folder = self.consortium.coordinator_state / "runs" / run_id
        return load_model((folder / "model.tallystick").read_bytes())

    def recovery_s(self, run_id, killed_at):
        """Seconds from a kill to the next opened sum; nan when none came after it."""
        opened = [dt.datetime.fromisoformat(event.at).timestamp() for event in self.events(run_id, "opened")]
        return min((at for at in opened if at > killed_at), default=math.nan) - killed_at

    def until(self, condition, *, deadline_s=PATIENCE_S, waiting_for="a condition"):
        """Look until a condition holds; what it gave."""
        ends_at = time.monotonic() + deadline_s
        while not (found := condition()):
            assert time.monotonic() < ends_at, f"waited {deadline_s:g} s for {waiting_for}"
            self._never.wait(LOOK_AGAIN_S)
        return found


def _free_port():
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def launch(tmp_path_factory):
    """Founds a consortium of banks with synthetic borrowers and runs it for the length of a `with` block."""

    @contextmanager
    def launch(members, *, step_deadline_s=60.0, privacy=None, start=True, mortal_for_good=()):
        data_set = synthetic_population(ROWS, seed=7)
        names = [f"bank-{letter}" for letter in "abcdefgh"[:members]]
        folder = tmp_path_factory.mktemp("consortium")
        port = _free_port()
        consortium = found(
            folder / "parties",
            data_set,
            deal_shares(data_set, dict.fromkeys(names, 1 / members), seed=3),
            model=ModelTerms(tower="additive", ridge=1.0, smoothness=0.5),
            privacy=privacy,
            fleet_port=port,
            step_deadline_s=step_deadline_s,
        )
        with _running(folder, consortium, port, start=start, mortal_for_good=mortal_for_good) as fleet:
            yield fleet

    return launch


@pytest.fixture(scope="session")
def launch_roles(tmp_path_factory):
    """The same with three roles that hold other columns of the same borrowers, one member each."""

    @contextmanager
    def launch_roles():
        data = RoleDataSet.of(synthetic_population(ROWS, seed=7), GMSC_DEMO_ROLES, task=TASK, label_role="bank")
        dealt = deal_roles(data, members_by_role(data.roles, 1), seed=3)
        folder, port = tmp_path_factory.mktemp("roles"), _free_port()
        consortium = found_dealt(folder / "parties", dealt, fleet_port=port)
        with _running(folder, consortium, port) as fleet:
            yield fleet

    return launch_roles


@contextmanager
def _running(folder, consortium, port, *, start=True, mortal_for_good=()):
    orders = folder / "orders"
    orders.mkdir()
    environment = {"TALLYSTICK_TEST_ORDERS": str(orders), "OMP_NUM_THREADS": "1"}
    with Processes(folder / "logs", environment) as processes:
        fleet = Fleet(consortium, processes, orders, port)
        if start:
            fleet.start_all(mortal_for_good=mortal_for_good)
        yield fleet

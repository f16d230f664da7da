"""Whole consortia in one process, small enough to run in half a second, with a place for an adversary in between.

The node runtimes, the run driver, stores, keys and sealed sums are the real ones. Messages are handed over by
`Relayed`: whoever holds the relay sees every message of the coordinator, may change it, keep it back, send more,
or die over it. Failed assertions in a relay reach the test, which no engine would let them.
"""

# ruff: noqa: PLC0415
from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # imported where they are needed: most tests need neither torch nor Flower
    from coordinator.engine.steps import StepOutcome
    from simulations.in_process_consortium import InProcessConsortium

Relay = Callable[[str, str, bytes, Callable[[bytes], bytes]], bytes]
"""(member, action, body, deliver) -> reply; `deliver` hands a body to the member's node."""


class Lost(Exception):
    """Raised by a relay: the message, or its answer, never arrives."""


class Killed(Exception):
    """Raised by a relay: the coordinator dies here."""


class Relayed:
    """`coordinator.engine.steps.Steps` by calls, through a relay; time passes only when somebody is silent."""

    def __init__(self, consortium: InProcessConsortium, relay: Relay) -> None:
        self.consortium = consortium
        self.relay = relay

    def run_step(
        self,
        action: str,
        bodies: Mapping[str, bytes],
        *,
        deadline_s: float,
        enough: Callable[[Mapping[str, bytes]], bool] | None = None,
    ) -> StepOutcome:
        from coordinator.engine.steps import Refusal, StepOutcome
        from policies.errors import UserError
        from protos.sealed_sum.errors import SealedSumError

        replies, refusals, silent = {}, {}, set()
        for member, body in bodies.items():
            try:
                replies[member] = self.relay(member, action, body, lambda b, m=member: self.deliver(m, action, b))
            except Lost:
                silent.add(member)
            except (UserError, SealedSumError) as refused:
                refusals[member] = Refusal(type(refused).__name__, str(refused))
        if silent and not (enough is not None and enough(replies)):
            self.consortium.clock.pause(deadline_s)
        down = {member: len(body) for member, body in bodies.items()}
        up = {member: len(body) for member, body in replies.items()}
        return StepOutcome(replies, refusals, frozenset(silent), down, up, 0.0)

    def deliver(self, member: str, action: str, body: bytes) -> bytes:
        return self.consortium.nodes[member].handle(action, body)

    def online(self) -> frozenset[str]:
        return frozenset(self.consortium.members)

    def wait_online(self, members: Collection[str], *, deadline_s: float) -> frozenset[str]:
        return frozenset(members)


@pytest.fixture(scope="session")
def small_population():
    """1,200 borrowers, two features: bins, sums and models of the real thing at a hundredth of its size."""
    import torch

    from simulations.population import synthetic_population

    torch.set_num_threads(1)
    population = synthetic_population(1200, 1)
    features = tuple(feature for feature in population.features if feature.name in ("age", "past_due_30_59"))
    columns = [population.id_column, *(feature.name for feature in features), population.label]
    return dataclasses.replace(population, features=features, frame=population.frame[columns])


@pytest.fixture(scope="session")
def found_in(small_population):
    """Founds a consortium in a folder: `found_in(folder, members=3, relay=None, **InProcessConsortium options)`.

    The hold-out key is fixed, so that two consortia of the same size train the same model.
    """
    from policies.agreement import ModelTerms
    from policies.presets import smallest_privacy_terms
    from simulations.dealing import deal_shares
    from simulations.in_process_consortium import InProcessConsortium

    def found_one(folder, members=3, relay=None, *, allow_roster_change=False, population=small_population, **options):
        names = [f"bank-{number}" for number in range(1, members + 1)]
        terms = smallest_privacy_terms(members).model_copy(update={"allow_roster_change": allow_roster_change})
        consortium = InProcessConsortium(
            population,
            deal_shares(population, dict.fromkeys(names, 1 / members), seed=3),
            folder,
            **{
                "model": ModelTerms(tower="additive", bins=4, ridge=1.0, smoothness=0.5),
                "privacy": terms,
                "holdout_key": bytes(range(32)),
                "survives_power_cut": False,
                **options,
            },
        )
        if relay is not None:
            consortium.steps = Relayed(consortium, relay)
        return consortium

    return found_one


@pytest.fixture
def found(tmp_path, found_in):
    """`found_in` with a folder that goes away after the test."""
    consortia = []

    def found_one(members=3, relay=None, **options):
        consortia.append(found_in(tmp_path / f"consortium-{len(consortia)}", members, relay, **options))
        return consortia[-1]

    yield found_one
    for consortium in consortia:
        consortium.close()


@pytest.fixture(scope="session")
def driver_of():
    """A run driver over a consortium's parties, as its coordinator process would make one."""
    from coordinator.driver import RunDriver

    def made(consortium):
        return RunDriver(
            consortium.agreement,
            consortium.operator,
            consortium.store,
            consortium.steps,
            waiting=consortium.waiting,
            now=lambda: "2026-01-01T00:00:00+00:00",
            clock=consortium.clock,
        )

    return made


@pytest.fixture(params=["sqlite", "postgresql"])
def decisions_url(request, tmp_path):
    """URL of an empty database for decisions: an SQLite file, and a schema of its own on a PostgreSQL server."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'decisions.sqlite'}"
        return
    server = os.environ.get("TALLYSTICK_POSTGRES_URL", "")
    if not server:
        pytest.skip("needs a PostgreSQL server: set TALLYSTICK_POSTGRES_URL to its URL")
    import sqlalchemy as sa

    schema = f"test_{secrets.token_hex(8)}"
    url = sa.make_url(server).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"create schema {schema}")
    yield url.update_query_dict({"options": f"-csearch_path={schema}"}).render_as_string(hide_password=False)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"drop schema {schema} cascade")


@pytest.fixture(scope="session")
def lost():
    """What a relay raises to lose a message."""
    return Lost


@pytest.fixture(scope="session")
def killed():
    """What a relay raises to kill the coordinator."""
    return Killed


@pytest.fixture(scope="session")
def short_run():
    """Two rounds of Newton: sums 0 (bins), 1 and 2 (training), 3 (evaluation)."""
    from policies.proposal import MethodSettings

    return MethodSettings(method="newton", rounds=2)


@pytest.fixture(scope="session")
def averaging_run():
    """Two rounds of federated averaging, with the same sums."""
    from policies.proposal import MethodSettings

    return MethodSettings(method="fedavg", rounds=2)


def pytest_sessionfinish(session, exitstatus):
    """CI brings all that a test may need; there a skip is a failure (`TALLYSTICK_NO_SKIPS`)."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = len(reporter.stats.get("skipped", [])) if reporter else 0
    if os.environ.get("TALLYSTICK_NO_SKIPS") and skipped and exitstatus == 0:
        reporter.write_line(f"{skipped} tests were skipped where none may be", red=True)
        session.exitstatus = 1

"""What a sealed training round costs beside the same round without sealing: five node processes over mutual TLS.

The coordinator runs in this process, the nodes in their own. Sealed and plain runs take turns in the same processes
on the same rows, so that whatever else the machine does falls on both.
"""

from __future__ import annotations

import datetime as dt
import json
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordinator.driver import RunDriver, Waiting
from coordinator.engine.steps import StepOutcome, Steps
from coordinator.flower_superlink import SuperLinkService
from coordinator.request import RunRequest
from coordinator.settings import load_coordinator_settings
from coordinator.store import CoordinatorStore
from models.artefact import load_model
from policies.agreement import ModelTerms
from policies.errors import UserError
from policies.key_files import load_identity_key
from policies.proposal import MethodSettings
from protos.sealed_sum.keys import SigningKey
from simulations.benchmarks.unsafe_node import USAGE
from simulations.benchmarks.unsafe_plain import CONTRIBUTE as PLAIN_CONTRIBUTE
from simulations.benchmarks.unsafe_plain import UnsafePlainDriver
from simulations.consortium import PURPOSE, TASK, Consortium, found
from simulations.datasets import DataSet
from simulations.dealing import deal_shares
from simulations.processes import Processes
from simulations.running import free_port

SEALED_CONTRIBUTE, SHARES = "contribute", "shares"
NODE_MODULE = "simulations.benchmarks.unsafe_node"
START_DEADLINE_S = 120.0
STEP_DEADLINE_S = 300.0
BATCH_SIZE = 1024
SMALL_TOWER = 100_000
SMALL_TOWER_TURNS = 3
"""Rounds of towers below `SMALL_TOWER` parameters are short, so noise is large and time cheap: more turns."""
SKEW_COLUMN = "age"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""Five nodes share two cores: more threads each would only get into one another's way, in both arms."""

Row = dict[str, float | int]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Exchange:
    """One exchange with all members, as the driver saw it."""

    action: str
    started_at: float
    cpu_before_s: float
    """Processor time that this process had used when it began."""
    outcome: StepOutcome


@dataclass
class TimedSteps:
    """Passes every step on and remembers when it began and what went over the wire."""

    steps: Steps
    exchanges: list[Exchange] = field(default_factory=list)

    def run_step(
        self,
        action: str,
        bodies: Mapping[str, bytes],
        *,
        deadline_s: float,
        enough: Callable[[Mapping[str, bytes]], bool] | None = None,
    ) -> StepOutcome:
        """See `Steps.run_step`."""
        started_at, cpu_before_s = time.perf_counter(), time.process_time()
        outcome = self.steps.run_step(action, bodies, deadline_s=deadline_s, enough=enough)
        self.exchanges.append(Exchange(action, started_at, cpu_before_s, outcome))
        return outcome

    def online(self) -> frozenset[str]:
        """See `Steps.online`."""
        return self.steps.online()

    def wait_online(self, members: Collection[str], *, deadline_s: float) -> frozenset[str]:
        """See `Steps.wait_online`."""
        return self.steps.wait_online(members, deadline_s=deadline_s)


@dataclass(frozen=True)
class Round:
    """One training round: from the request for its updates to the request that carries their sum."""

    seconds: float
    coordinator_cpu_s: float
    exchanges: tuple[Exchange, ...]


def rounds_of(exchanges: Sequence[Exchange], action: str, num_rounds: int) -> list[Round]:
    """Cut a run's exchanges into training rounds.

    Sum 0 is the binning; the request for sum k opens sum k - 1 and asks for update k. The first round is left out: it
    builds the design matrix and warms everything up.

    Args:
        exchanges: Of one run.
        action: Name of the exchange that begins a sum.
        num_rounds: Training rounds of the run.
    """
    begins = [number for number, exchange in enumerate(exchanges) if exchange.action == action]
    return [
        Round(
            exchanges[begins[k + 1]].started_at - exchanges[begins[k]].started_at,
            exchanges[begins[k + 1]].cpu_before_s - exchanges[begins[k]].cpu_before_s,
            tuple(exchanges[begins[k] : begins[k + 1]]),
        )
        for k in range(2, num_rounds + 1)
    ]


@dataclass
class Arm:
    """Everything measured of one kind of run at one size."""

    rounds: list[Round] = field(default_factory=list)
    node_cpu_s: dict[str, list[float]] = field(default_factory=dict)
    """Of one node in one step, by action; one figure for every node and round measured."""

    def add(self, run: Sequence[Exchange], usage: Mapping[str, Mapping[str, list[float]]], num_rounds: int) -> None:
        """Take up a run; the first action of `run` that repeats for every sum begins one."""
        action = PLAIN_CONTRIBUTE if any(each.action == PLAIN_CONTRIBUTE for each in run) else SEALED_CONTRIBUTE
        self.rounds += rounds_of(run, action, num_rounds)
        for by_action in usage.values():
            self.node_cpu_s.setdefault(action, []).extend(by_action[action][2 : num_rounds + 1])
            self.node_cpu_s.setdefault(SHARES, []).extend(by_action.get(SHARES, []))

    def median_s(self) -> float:
        """Median seconds of a round."""
        return statistics.median(each.seconds for each in self.rounds)

    def mean_node_cpu_s(self, action: str) -> float:
        """Mean over nodes and rounds: nodes have unequal numbers of rows."""
        return statistics.mean(self.node_cpu_s[action])

    def coordinator_cpu_s(self) -> float:
        """Median over rounds."""
        return statistics.median(each.coordinator_cpu_s for each in self.rounds)

    def exchange_s(self, action: str) -> float:
        """Median seconds of one exchange."""
        return statistics.median(
            exchange.outcome.elapsed_s
            for each in self.rounds
            for exchange in each.exchanges
            if exchange.action == action
        )

    def bytes_per_node(self, action: str | None = None, *, up: bool) -> int:
        """Median body bytes of a node in one round."""
        totals: list[int] = []
        for each in self.rounds:
            by_member: dict[str, int] = {}
            for exchange in each.exchanges:
                if action not in {None, exchange.action}:
                    continue
                counted = exchange.outcome.bytes_up if up else exchange.outcome.bytes_down
                for member, size in counted.items():
                    by_member[member] = by_member.get(member, 0) + size
            totals += by_member.values()
        return round(statistics.median(totals)) if totals else 0


@dataclass(frozen=True)
class Bench:
    """A consortium of processes that runs take turns on."""

    consortium: Consortium
    fleet: SuperLinkService
    store: CoordinatorStore
    operator: SigningKey

    def sealed(self, run_id: str, settings: MethodSettings) -> tuple[list[Exchange], int]:
        """A sealed run; gives its exchanges and the number of parameters."""
        request = RunRequest(task=TASK, purpose=PURPOSE, settings=settings)
        self.store.queue_run(run_id, request.to_bytes())
        with self.fleet.open_run(run_id) as steps:
            timed = TimedSteps(steps)
            driver = RunDriver(
                self.consortium.agreement,
                self.operator,
                self.store,
                timed,
                waiting=Waiting(step_deadline_s=STEP_DEADLINE_S),
                now=lambda: dt.datetime.now(dt.UTC).isoformat(),
            )
            outcome = driver.run(run_id)
        if outcome.artefact is None:
            raise UserError("The benchmark's agreement releases the model, but the run gave none.")
        return timed.exchanges, load_model(outcome.artefact).shape.num_parameters

    def plain(self, run_id: str, settings: MethodSettings) -> list[Exchange]:
        """The same run without any protection."""
        with self.fleet.open_run(run_id) as steps:
            timed = TimedSteps(steps)
            UnsafePlainDriver(self.consortium.agreement, self.store, timed, STEP_DEADLINE_S).run(run_id, settings)
        return timed.exchanges

    def usage(self) -> dict[str, dict[str, list[float]]]:
        """Processor seconds of every step, by member and action, since this was last asked."""
        with self.fleet.open_run("usage") as steps:
            members = self.consortium.members
            outcome = steps.run_step(USAGE, dict.fromkeys(members, b""), deadline_s=30.0)
        return {member: json.loads(reply) for member, reply in outcome.replies.items()}


def run(
    data_set: DataSet,
    folder: Path,
    *,
    shares: Mapping[str, float],
    parameters: Sequence[int] = (10_000, 1_000_000),
    rounds: int = 4,
    repeats: int = 2,
    progress: Progress = lambda _: None,
) -> list[Row]:
    """Measure rounds of several towers, sealed and plain in turn.

    Args:
        data_set: Whose rows are dealt.
        folder: For keys, rows, state and logs; absent or empty.
        shares: Share of the rows by member.
        parameters: About how many parameters each tower has.
        rounds: Training rounds of a run, the first of which only warms up; at least 2.
        repeats: Turns of a sealed and a plain run at each size; small towers get `SMALL_TOWER_TURNS` times as many.
        progress: Called with one line before each run.

    Returns:
        One flat row a tower.
    """
    with _processes(data_set, folder, shares, progress) as bench:
        return [
            _measure(bench, size, rounds, repeats * (SMALL_TOWER_TURNS if size < SMALL_TOWER else 1), progress)
            for size in parameters
        ]


@contextmanager
def _processes(data_set: DataSet, folder: Path, shares: Mapping[str, float], progress: Progress) -> Iterator[Bench]:
    rows = deal_shares(data_set, shares, seed=7, skew_column=SKEW_COLUMN, skew_strength=0.5)
    # The agreement wants hidden layers; the proposal's target_parameters takes their place.
    model = ModelTerms(tower="neural", hidden_units=(16,), ridge=1.0, smoothness=0.5)
    fleet_port = free_port()
    consortium = found(folder / "consortium", data_set, rows, model=model, fleet_port=fleet_port)
    settings = load_coordinator_settings(consortium.coordinator_settings)
    store = CoordinatorStore(settings.state_dir)
    try:
        with (
            SuperLinkService(
                state_dir=settings.state_dir / "fleet",
                listen_host=settings.listen_host,
                fleet_port=fleet_port,
                certificate_path=settings.tls.certificate_path,
                key_path=settings.tls.key_path,
                ca_certificate_path=settings.tls.ca_certificate_path,
                members_dir=settings.members_dir,
            ) as fleet,
            Processes(folder / "logs", ONE_THREAD, sample_usage=False) as processes,
        ):
            progress(f"starting {len(rows)} node processes over mutual TLS")
            for member in consortium.members:
                processes.start_python(member, "-m", NODE_MODULE, str(consortium.node_settings(member)))
            for member in consortium.members:
                processes.wait_for(member, "^online$", deadline_s=START_DEADLINE_S)
            operator = SigningKey(load_identity_key(settings.identity_key_path))
            yield Bench(consortium, fleet, store, operator)
    finally:
        store.close()


def _measure(bench: Bench, size: int, rounds: int, repeats: int, progress: Progress) -> Row:
    settings = MethodSettings(
        method="fedavg",
        rounds=rounds,
        local_epochs=1,
        batch_size=BATCH_SIZE,
        learning_rate=0.002,
        target_parameters=size,
    )
    sealed, plain = Arm(), Arm()
    num_parameters = 0
    for repeat in range(repeats):
        progress(f"round: about {size} parameters, sealed, run {repeat + 1} of {repeats}")
        bench.usage()
        exchanges, num_parameters = bench.sealed(f"sealed-{size:08d}-{repeat}", settings)
        sealed.add(exchanges, bench.usage(), rounds)
        progress(f"round: about {size} parameters, plain, run {repeat + 1} of {repeats}")
        exchanges = bench.plain(f"plain-{size:08d}-{repeat}", settings)
        plain.add(exchanges, bench.usage(), rounds)
    return _row(len(bench.consortium.members), num_parameters, sealed, plain)


def _row(nodes: int, num_parameters: int, sealed: Arm, plain: Arm) -> Row:
    sealed_s, plain_s = sealed.median_s(), plain.median_s()
    row: dict[str, Any] = {
        "nodes": nodes,
        "parameters": num_parameters,
        "sealed_s": sealed_s,
        "plain_s": plain_s,
        "ratio": sealed_s / plain_s,
        "exchanges": round(statistics.median(len(each.exchanges) for each in sealed.rounds)),
        "bytes_per_node": sealed.bytes_per_node(up=True),
        "bytes_down_per_node": sealed.bytes_per_node(up=False),
        "plain_exchanges": round(statistics.median(len(each.exchanges) for each in plain.rounds)),
        "plain_bytes_per_node": plain.bytes_per_node(up=True),
        "plain_bytes_down_per_node": plain.bytes_per_node(up=False),
        "contribute_s": sealed.exchange_s(SEALED_CONTRIBUTE),
        "shares_s": sealed.exchange_s(SHARES),
        "contribute_bytes_per_node": sealed.bytes_per_node(SEALED_CONTRIBUTE, up=True),
        "shares_bytes_per_node": sealed.bytes_per_node(SHARES, up=True),
        "plain_contribute_s": plain.exchange_s(PLAIN_CONTRIBUTE),
        "node_cpu_contribute_s": sealed.mean_node_cpu_s(SEALED_CONTRIBUTE),
        "node_cpu_shares_s": sealed.mean_node_cpu_s(SHARES),
        "plain_node_cpu_s": plain.mean_node_cpu_s(PLAIN_CONTRIBUTE),
        "coordinator_cpu_s": sealed.coordinator_cpu_s(),
        "plain_coordinator_cpu_s": plain.coordinator_cpu_s(),
        "rounds_measured": len(sealed.rounds),
    }
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}

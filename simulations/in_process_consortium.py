"""A whole consortium in one process: the real node runtimes and the real run driver over the in-process Grid.

Keys, signatures, guards, sealed sums and checkpoints are those of separate processes; only the network is a call.
Simulations, benchmarks and tests build it; faults and restarts are theirs to choose.
"""

from __future__ import annotations

import datetime as dt
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import pandas as pd

from coordinator.driver import RunDriver, RunOutcome, Waiting
from coordinator.engine.grid_steps import GridSteps
from coordinator.request import RunRequest
from coordinator.store import CoordinatorStore, Event
from models.features import TrainingData
from nodes.contract import prepare_rows
from nodes.flower_app import Handle, client_app
from nodes.ledger_witness import LedgerWitness
from nodes.membership import Membership
from nodes.runtime import NodeRuntime
from nodes.store import NodeStore
from policies.agreement import Agreement, ModelTerms, PrivacyTerms, Task
from policies.guard import NodePolicy
from policies.presets import example_agreement
from policies.proposal import MethodSettings
from protos.sealed_sum.keys import SigningKey
from simulations.consortium import PURPOSE, ROLE, TASK
from simulations.datasets.data_set import DataSet
from simulations.in_process import Faults, InProcessGrid, TickingClock

DEFAULT_RUN_ID = "run-00000001"
WILLING_POLICY = NodePolicy(
    format="tallystick-node-policy/1",
    tasks=(TASK,),
    purposes=(PURPOSE,),
    methods=("newton", "fedavg", "fedprox", "fedadam"),
    min_cohort=3,
    max_rounds=1000,
    auto_cosign=True,
)
"""Takes part in whatever a simulation proposes."""


class InProcessConsortium:
    """Coordinator and members of one agreement, in this process.

    Time is simulated: a member that stays silent lets a deadline pass without anybody waiting for it.

    Args:
        data_set: Gives the feature contract and the label.
        rows: Each member's rows.
        folder: Where every party keeps its state, one folder each.
        model: Tower and penalties of the agreement.
        privacy: Bounds; the smallest safe ones for the number of members when None.
        release: Who gets the opened model.
        policy: Of every node.
        holdout_key: 32 bytes that pick the hold-out; fresh ones when None.
        faults: Decides what goes wrong; nothing by default.
        wire: Serialise and parse every message, as the stream does; slower.
        survives_power_cut: Whether every commit waits for the disk. False is for measurements and simulations, where
            nothing outlives the process anyway.
        waiting: Deadlines, in simulated seconds.
        wrap: Given member and handler, returns the handler that the Grid calls: an adversary's place.
        on_event: Called with each line of public progress.
    """

    def __init__(
        self,
        data_set: DataSet,
        rows: Mapping[str, pd.DataFrame],
        folder: Path,
        *,
        model: ModelTerms,
        privacy: PrivacyTerms | None = None,
        release: Literal["members", "platform"] = "platform",
        policy: NodePolicy = WILLING_POLICY,
        holdout_key: bytes | None = None,
        faults: Faults | None = None,
        wire: bool = False,
        survives_power_cut: bool = True,
        waiting: Waiting | None = None,
        wrap: Callable[[str, Handle], Handle] | None = None,
        on_event: Callable[[str, dict[str, object]], None] | None = None,
    ) -> None:
        self.folder = folder
        self.members = tuple(sorted(rows))
        self.identities = {member: SigningKey.from_bytes(secrets.token_bytes(32)) for member in self.members}
        self.operator = SigningKey.from_bytes(secrets.token_bytes(32))
        self.agreement: Agreement = example_agreement(
            {member: identity.public_bytes for member, identity in self.identities.items()},
            coordinator_key=self.operator.public_bytes,
            holdout_key=holdout_key or secrets.token_bytes(32),
            name=f"{data_set.name} simulation",
            role=ROLE,
            features=data_set.features_of_one_role(ROLE),
            tasks=(
                Task(
                    name=TASK,
                    label=data_set.label,
                    label_role=ROLE,
                    horizon_months=data_set.horizon_months,
                    purposes=(PURPOSE,),
                ),
            ),
            model=model,
            privacy=privacy,
            release=release,
            id_column=data_set.id_column,
        )
        self.data: dict[str, TrainingData] = {
            member: prepare_rows(rows[member], self.agreement, member_id=member, task_name=TASK)[0]
            for member in self.members
        }
        self.clock = TickingClock()
        self.waiting = waiting or Waiting()
        self._policy = policy
        self._survives_power_cut = survives_power_cut
        self._on_event = on_event
        self.node_stores: dict[str, NodeStore] = {}
        self.nodes: dict[str, NodeRuntime] = {}
        for member in self.members:
            self._start_node(member)
        self.store = self._open_store()
        handlers = {member: self._handler(member) for member in self.members}
        if wrap is not None:
            handlers = {member: wrap(member, handle) for member, handle in handlers.items()}
        grid = InProcessGrid({m: client_app(handle) for m, handle in handlers.items()}, faults, wire=wire)
        self.steps = GridSteps(grid, grid.node_ids, resend_after_s=1.0, clock=self.clock, pause=self.clock.pause)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every party's state."""
        for store in self.node_stores.values():
            store.close()
        self.store.close()

    # -- runs -------------------------------------------------------------------------------------------

    def run(
        self, settings: MethodSettings, *, run_id: str = DEFAULT_RUN_ID, members: tuple[str, ...] = ()
    ) -> RunOutcome:
        """Propose a run and drive it to its release.

        Args:
            settings: Method and hyper-parameters.
            run_id: Must be new.
            members: Cohort; all members when empty.

        Raises:
            UserError: The run failed; the sentence says why.
        """
        self.queue(settings, run_id=run_id, members=members)
        return self.drive(run_id)

    def queue(self, settings: MethodSettings, *, run_id: str = DEFAULT_RUN_ID, members: tuple[str, ...] = ()) -> None:
        """Propose a run without driving it."""
        request = RunRequest(task=TASK, purpose=PURPOSE, settings=settings, members=members)
        self.store.queue_run(run_id, request.to_bytes())

    def drive(self, run_id: str = DEFAULT_RUN_ID) -> RunOutcome:
        """Drive a queued run, or one that a coordinator has left unfinished."""
        driver = RunDriver(
            self.agreement,
            self.operator,
            self.store,
            self.steps,
            waiting=self.waiting,
            now=_now,
            clock=self.clock,
        )
        return driver.run(run_id)

    def events(self, run_id: str = DEFAULT_RUN_ID) -> list[Event]:
        """Public progress of a run."""
        return self.store.events(run_id)

    def current_sum(self, run_id: str = DEFAULT_RUN_ID) -> int:
        """Number of the sum that the coordinator works on."""
        return self.store.num_finished_sums(run_id)

    def model_of(self, member: str, run_id: str = DEFAULT_RUN_ID) -> bytes:
        """The finished model in a member's own state; empty before."""
        return self.node_stores[member].blob(run_id, "model")

    # -- crashes ----------------------------------------------------------------------------------------

    def restart_node(self, member: str) -> None:
        """What kill -9 and a new start do to a node: memory is lost, its state folder stays."""
        self.node_stores[member].close()
        self._start_node(member)

    def restart_coordinator(self) -> None:
        """What kill -9 and a new start do to the coordinator."""
        self.store.close()
        self.store = self._open_store()

    def _open_store(self) -> CoordinatorStore:
        return _WatchedStore(self.folder / "coordinator", self._on_event, survives_power_cut=self._survives_power_cut)

    def _start_node(self, member: str) -> None:
        store = NodeStore(self.folder / member, survives_power_cut=self._survives_power_cut)
        membership = Membership(member, self.identities[member], self.agreement, self._policy)
        rows = self.data[member]
        self.node_stores[member] = store
        witness = LedgerWitness(membership, store, now=_now, now_s=time.time)
        self.nodes[member] = NodeRuntime(
            membership, lambda _task: rows, store, rng=secrets.token_bytes, now=_now, witness=witness
        )

    def _handler(self, member: str) -> Handle:
        def handle(action: str, body: bytes) -> bytes:
            return self.nodes[member].handle(action, body)  # looked up each time: a restarted node is another object

        return handle


class _WatchedStore(CoordinatorStore):
    """The coordinator's store, telling somebody in this process about each event."""

    def __init__(
        self,
        state_dir: Path,
        on_event: Callable[[str, dict[str, object]], None] | None,
        *,
        survives_power_cut: bool,
    ) -> None:
        super().__init__(state_dir, survives_power_cut=survives_power_cut)
        self._on_event = on_event

    def add_event(self, at: str, run_id: str, event: str, **details: object) -> None:
        """Append a line of public progress."""
        super().add_event(at, run_id, event, **details)
        self._tell(event, details)

    def close_run(
        self, run_id: str, status: Literal["finished", "failed"], at: str, reason: str = "", **details: object
    ) -> None:
        """Record a run's end and its last event."""
        super().close_run(run_id, status, at, reason, **details)
        self._tell(status, {**({"reason": reason} if reason else {}), **details})

    def _tell(self, event: str, details: dict[str, object]) -> None:
        if self._on_event is not None:
            self._on_event(event, details)


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat()

"""A vertical run inside one process: the real node runtimes, guards, stores and driver; only the sockets are calls."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import numpy as np

from coordinator.driver import RunDriver, RunOutcome, Waiting
from coordinator.engine.grid_steps import GridSteps
from coordinator.request import RunRequest
from coordinator.store import CoordinatorStore
from models.role_tower import RoleTower
from nodes.flower_app import Handle, client_app
from nodes.membership import Membership
from nodes.runtime import NodeRuntime
from nodes.store import NodeStore
from nodes.tower_folder import TowerFolder
from nodes.vertical import VerticalSide
from nodes.vertical_data import OwnRows
from policies.agreement import (
    Agreement,
    CoordinatorTerms,
    EntityTerms,
    Feature,
    Member,
    ModelTerms,
    ReleaseTerms,
    Task,
    format_identity_key,
)
from policies.guard import NodePolicy
from policies.presets import smallest_privacy_terms
from policies.proposal import MethodSettings
from protos.sealed_sum.keys import SigningKey
from simulations.in_process import Faults, InProcessGrid, TickingClock

PURPOSE = "credit-model-training"
RUN_ID = "vertical-00000001"


@dataclass(frozen=True)
class VerticalWorld:
    """Who is there and what they know.

    Attributes:
        roles: Role by member.
        rows: Each member's rows.
        features: The contract, each feature under its role.
        label_roles: Task -> role that holds its label.
        privacy: Changes of the smallest safe privacy terms.
    """

    roles: Mapping[str, str]
    rows: Mapping[str, OwnRows] = field(repr=False)
    features: Sequence[Feature]
    label_roles: Mapping[str, str]
    privacy: Mapping[str, int | bool] = field(default_factory=dict)


class InProcessVertical:
    """Coordinator and members of a vertical run, in this process; time is simulated.

    Args:
        world: Who is there.
        folder: Where everybody keeps its state.
        faults: Decides what goes wrong; nothing by default.
        wrap: Given member and handler, returns the handler that the Grid calls: an adversary's place.
        policies: By member; a willing one for members without.
        waiting: Deadlines, in simulated seconds.
    """

    def __init__(
        self,
        world: VerticalWorld,
        folder: Path,
        *,
        faults: Faults | None = None,
        wrap: Callable[[str, Handle], Handle] | None = None,
        policies: Mapping[str, NodePolicy] | None = None,
        waiting: Waiting | None = None,
    ) -> None:
        self.world = world
        self.folder = folder
        self._policies = policies or {}
        self.identities = {member: SigningKey.from_bytes(secrets.token_bytes(32)) for member in world.roles}
        self.operator = SigningKey.from_bytes(secrets.token_bytes(32))
        self.agreement = _agreement(world, self.identities, self.operator)
        self.stores: dict[str, NodeStore] = {}
        self.nodes: dict[str, NodeRuntime] = {}
        for member in world.roles:
            self.start(member)
        self.clock = TickingClock()
        handles = {member: self._handler(member) for member in world.roles}
        if wrap is not None:
            handles = {member: wrap(member, handle) for member, handle in handles.items()}
        grid = InProcessGrid({member: client_app(handle) for member, handle in handles.items()}, faults, wire=True)
        self.steps = GridSteps(grid, grid.node_ids, resend_after_s=1.0, clock=self.clock, pause=self.clock.pause)
        self.store = CoordinatorStore(folder / "coordinator", survives_power_cut=False)
        self.driver = RunDriver(
            self.agreement,
            self.operator,
            self.store,
            self.steps,
            waiting=waiting or Waiting(step_deadline_s=20.0, pause_limit_s=60.0),
            now=lambda: dt.datetime.now(dt.UTC).isoformat(),
            clock=self.clock,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for store in self.stores.values():
            store.close()
        self.store.close()

    def start(self, member: str) -> None:
        """Start a node, or start it again after a kill: what was not on disk is gone."""
        if member in self.stores:
            self.stores[member].close()
        store = NodeStore(self.folder / member, survives_power_cut=False)
        policy = self._policies.get(member) or willing_policy(tuple(self.world.label_roles))
        rows = self.world.rows[member]
        self.stores[member] = store
        self.nodes[member] = NodeRuntime(
            Membership(member, self.identities[member], self.agreement, policy),
            _no_rows,
            store,
            rng=secrets.token_bytes,
            now=lambda: dt.datetime.now(dt.UTC).isoformat(),
            entities=lambda _tasks, _purpose: rows.entity_ids,
            vertical=VerticalSide(lambda *_tasks: rows, TowerFolder(self.folder / member)),
        )

    def train(
        self, *, run_id: str = RUN_ID, tasks: Sequence[str] = (), passes: int = 5, pairs: int = 0
    ) -> list[RunOutcome]:
        """Queue a run and drive it to its release."""
        names = tuple(tasks) or tuple(self.world.label_roles)
        request = RunRequest(
            task=names[0],
            further_tasks=names[1:],
            purpose=PURPOSE,
            settings=MethodSettings(method="vertical", passes=passes, pairs=pairs),
        )
        self.store.queue_run(run_id, request.to_bytes())
        outcomes = self.driver.vertical(run_id)
        self.driver.finish(run_id)
        return outcomes

    def events(self, run_id: str = RUN_ID) -> list[str]:
        """What was announced about a run, in order."""
        return [event.event for event in self.store.events(run_id)]

    def tower(self, member: str, outcome: RunOutcome) -> RoleTower:
        """The tower that a member has kept."""
        table = outcome.released.table
        return TowerFolder(self.folder / member).load(table.task, table.federated_version or "")

    def _handler(self, member: str) -> Handle:
        def handle(action: str, body: bytes) -> bytes:
            return self.nodes[member].handle(action, body)  # looked up each time: a restarted node is another object

        return handle


def willing_policy(tasks: tuple[str, ...]) -> NodePolicy:
    """Trains with whomever the agreement names."""
    return NodePolicy(
        format="tallystick-node-policy/1",
        tasks=tasks,
        purposes=(PURPOSE,),
        methods=("vertical",),
        min_cohort=3,
        max_rounds=1000,
        auto_cosign=True,
    )


def _agreement(world: VerticalWorld, identities: Mapping[str, SigningKey], operator: SigningKey) -> Agreement:
    privacy = smallest_privacy_terms(len(world.roles)).model_copy(update=dict(world.privacy))
    return Agreement(
        format="tallystick-agreement/1",
        name="Several roles, one customer",
        coordinator=CoordinatorTerms(identity_key=format_identity_key(operator.public_bytes)),
        entities=EntityTerms(id_column="entity_id", holdout_key=bytes(range(32)).hex()),
        members=tuple(
            Member(id=member, role=role, identity_key=format_identity_key(identities[member].public_bytes))
            for member, role in sorted(world.roles.items())
        ),
        features=tuple(world.features),
        tasks=tuple(
            Task(name=task, label=f"label_{task}", label_role=role, horizon_months=12, purposes=(PURPOSE,))
            for task, role in world.label_roles.items()
        ),
        model=ModelTerms(tower="additive", ridge=1.0, smoothness=20.0),
        privacy=privacy,
        release=ReleaseTerms(policy="members"),
    )


def total_scores(world: VerticalWorld, towers: Mapping[str, RoleTower], bias: float, ids: Sequence[str]) -> np.ndarray:
    """Bias and towers added up for some entities, as no party of a run could: for tests that compare.

    Args:
        world: Everybody's rows.
        towers: Member -> its role's tower.
        bias: Log-odds.
        ids: Entities.

    Returns:
        Log-odds of default, shape (len(ids),).
    """
    score = np.full(len(ids), bias)
    place = {entity: at for at, entity in enumerate(ids)}
    for member, tower in towers.items():
        rows = world.rows[member]
        known = [(place[entity], row) for row, entity in enumerate(rows.entity_ids) if entity in place]
        if known:
            at, own = (np.array(each) for each in zip(*known, strict=True))
            score[at] += tower.scores({name: values[own] for name, values in rows.columns.items()})
    return score


def _no_rows(task: str) -> NoReturn:
    raise KeyError(task)  # a vertical run reads no horizontal rows

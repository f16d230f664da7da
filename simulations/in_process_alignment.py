"""Members of several roles that align their entities inside one process, with the real node runtimes."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from coordinator.alignment import AlignmentRound
from coordinator.engine.grid_steps import GridSteps
from coordinator.epoch_opening import EpochOpening
from coordinator.request import RunRequest
from nodes.alignment_store import AlignmentStore
from nodes.flower_app import Handle, client_app
from nodes.membership import Membership
from nodes.runtime import NodeRuntime
from nodes.store import NodeStore
from policies.alignment import alignment_pairs
from policies.guard import NodePolicy
from policies.proposal import MethodSettings
from protos.private_set_intersection.channel import Pair
from protos.private_set_intersection.identifiers import IdentifierType
from protos.sealed_sum.keys import SigningKey
from simulations.in_process import Faults, InProcessGrid, TickingClock
from simulations.roles import PURPOSE, TASK, agreement_of_roles

RUN_ID = "align-00000001"
ALIGNING_POLICY = NodePolicy(
    format="tallystick-node-policy/1",
    tasks=(TASK,),
    purposes=(PURPOSE,),
    methods=("alignment",),
    min_cohort=3,
    max_rounds=1000,
    auto_cosign=True,
)
"""Aligns with whomever the agreement names."""


class InProcessAlignment:
    """Coordinator and members of several roles, in this process; time is simulated.

    Args:
        roles: Role by member id; banks hold the label.
        identifiers: Each member's consented entities, one a row.
        folder: Where every node keeps its state.
        id_type: How they are written.
        policies: By member; the willing one for members without.
        faults: Decides what goes wrong; nothing by default.
        wrap: Given member and handler, returns the handler that the Grid calls: an adversary's place.
        step_elements: See `AlignmentRound`.
        deadline_s: Of one step, in simulated seconds.
        pause_limit_s: Of the alignment, likewise.
    """

    def __init__(
        self,
        roles: Mapping[str, str],
        identifiers: Mapping[str, Sequence[object]],
        folder: Path,
        *,
        id_type: IdentifierType = "text",
        policies: Mapping[str, NodePolicy] | None = None,
        faults: Faults | None = None,
        wrap: Callable[[str, Handle], Handle] | None = None,
        step_elements: int = 64,
        deadline_s: float = 60.0,
        pause_limit_s: float = 900.0,
    ) -> None:
        self.folder = folder
        self.identifiers = dict(identifiers)
        self.identities = {member: SigningKey.from_bytes(secrets.token_bytes(32)) for member in roles}
        self.operator = SigningKey.from_bytes(secrets.token_bytes(32))
        keys = {member: identity.public_bytes for member, identity in self.identities.items()}
        self.agreement = agreement_of_roles(roles, keys, self.operator.public_bytes, id_type=id_type)
        self.events: list[tuple[str, dict[str, object]]] = []
        self._policies = dict(policies or {})
        self._step_elements = step_elements
        self._deadline_s, self._pause_limit_s = deadline_s, pause_limit_s
        self.stores: dict[str, NodeStore] = {}
        self.nodes: dict[str, NodeRuntime] = {}
        for member in roles:
            self._start(member)
        handlers = {member: self._handler(member) for member in roles}
        if wrap is not None:
            handlers = {member: wrap(member, handle) for member, handle in handlers.items()}
        clock = TickingClock()
        grid = InProcessGrid({member: client_app(handle) for member, handle in handlers.items()}, faults)
        self.clock = clock
        self.steps = GridSteps(grid, grid.node_ids, resend_after_s=1.0, clock=clock, pause=clock.pause)
        self._signed = b""
        self._confirmations: tuple[bytes, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for store in self.stores.values():
            store.close()

    def open_epoch(self) -> None:
        """E1 and E2 of the whole membership."""
        opening = EpochOpening(
            self.agreement, self.operator, self.steps, deadline_s=self._deadline_s, announce=self._announce
        )
        request = RunRequest(task=TASK, purpose=PURPOSE, settings=MethodSettings(method="alignment"))
        self._signed = opening.propose(RUN_ID, request)
        _, self._confirmations = opening.open(self._signed)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Who aligns with whom."""
        return alignment_pairs(self.agreement, EpochOpening.proposal(self._signed))

    def align(self) -> AlignmentRound:
        """Align every pair, or take it up again after the coordinator was away.

        Raises:
            UserError: It failed; the sentence says why.
        """
        driven = AlignmentRound(
            RUN_ID,
            self.pairs,
            self.steps,
            self._confirmations,
            deadline_s=self._deadline_s,
            pause_limit_s=self._pause_limit_s,
            announce=self._announce,
            clock=self.clock,
            step_elements=self._step_elements,
        )
        driven.run()
        return driven

    def aligned(self, member: str, pair: Pair) -> NDArray[np.int64]:
        """The order that a member has on its disk.

        Raises:
            KeyError: It has none.
        """
        rows = AlignmentStore(self.stores[member], RUN_ID).aligned_rows(pair)
        if rows is None:
            raise KeyError(pair)
        return rows

    def restart_node(self, member: str) -> None:
        """Drop everything that a node holds in memory, as kill -9 would; its file stays."""
        self.stores[member].close()
        self._start(member)

    def _start(self, member: str) -> None:
        store = NodeStore(self.folder / member, survives_power_cut=False)
        policy = self._policies.get(member, ALIGNING_POLICY)
        membership = Membership(member, self.identities[member], self.agreement, policy)
        self.stores[member] = store
        self.nodes[member] = NodeRuntime(
            membership,
            _no_rows,
            store,
            rng=secrets.token_bytes,
            now=lambda: dt.datetime.now(dt.UTC).isoformat(),
            entities=lambda _tasks, _purpose: self.identifiers[member],
        )

    def _handler(self, member: str) -> Handle:
        def handle(action: str, body: bytes) -> bytes:
            return self.nodes[member].handle(action, body)  # looked up each time: a restarted node is another object

        return handle

    def _announce(self, event: str, **details: object) -> None:
        self.events.append((event, details))


def _no_rows(task: str) -> NoReturn:
    raise KeyError(task)  # an alignment reads no features

"""A scoring consortium in one process: the real gateway and the real responders, with streams that are queues.

For tests of what happens when nodes fall silent, refuse, die or come back at a chosen moment, under a chosen clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc

from coordinator.revocations import RevocationLists
from coordinator.scoring_answers import NotAnswered, Question
from coordinator.scoring_gateway import ScoringGateway
from coordinator.scoring_opening import GatewaySettings
from coordinator.scoring_store import AnswerStore
from models.score_slots import ScoreSlots
from nodes.identity import load_identity
from nodes.membership import Membership
from nodes.revocations import RevocationStore, revocations_folder
from nodes.scoring import ScoringResponder
from nodes.scoring_guard import ScoringGuard
from nodes.scoring_journal import Journal
from nodes.scoring_tables import EntityTable
from policies import documents
from policies.guard import NodePolicy
from policies.key_files import load_identity_key
from policies.scoring_policy import ScoringPolicy, load_scoring_policy
from protos.scoring.v1 import scoring_pb2 as pb
from protos.sealed_sum.keys import SigningKey
from simulations.scoring_consortium import CLIENT, LAYOUT, MODEL_VERSION, PURPOSE, TASK, ScoringConsortium

Fault = Callable[[pb.ToNode], bool]
"""Whether a node stays silent about a message."""

SCRIPT_S = 60.0

_Result = TypeVar("_Result")


def is_step(what: str) -> Fault:
    """Silent about one kind of message: `request`, `seeds` or `shares`."""
    return lambda message: message.WhichOneof("what") == what


@dataclass
class Clock:
    """A clock that stands still until it is moved, Unix seconds."""

    at_s: float = 1_800_000_000.0

    def __call__(self) -> float:
        """The time."""
        return self.at_s


@dataclass(eq=False)
class LocalNode:
    """One member's node: a responder over a journal on disk, and its stream.

    Attributes:
        member: Whose.
        silent: A fault; None answers everything.
        seen: Messages it got.
    """

    member: str
    responder: ScoringResponder
    journal: Journal
    silent: Fault | None = None
    dies: Fault | None = None
    seen: list[pb.ToNode] = field(default_factory=list)
    sent: list[pb.FromNode] = field(default_factory=list)
    to_gateway: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    task: asyncio.Task[None] | None = None

    async def send_initial_metadata(self, _metadata: object) -> None:
        """As gRPC's server context."""

    async def read(self) -> Any:
        """The node's next message, or the end of its stream."""
        return await self.to_gateway.get()

    async def write(self, packet: pb.Packet) -> None:
        """Messages of the gateway: answer them, unless a fault says otherwise."""
        for data in packet.messages:
            self._take(pb.ToNode.FromString(data))

    def _take(self, message: pb.ToNode) -> None:
        self.seen.append(message)
        if self.dies is not None and self.dies(message):
            self.end()
            return
        if self.silent is not None and self.silent(message):
            return
        reply = self.responder.handle(message)
        if reply is None:
            return
        if reply.ticket:
            self.journal.wait(reply.ticket)
        self.sent.append(reply.message)
        self.to_gateway.put_nowait(pb.Packet(messages=[reply.message.SerializeToString()]))

    def end(self) -> None:
        """End the stream, as a killed process does."""
        self.to_gateway.put_nowait(grpc.aio.EOF)


@dataclass(eq=False)
class LocalScoring:
    """Gateway and nodes.

    Attributes:
        consortium: Keys, tables, policies.
        clock: The gateway's; nodes have it too unless `skew_s` says otherwise.
        nodes: By member, those connected now.
        policy_changes: Of every node.
        skew_s: By member: how far its clock is ahead.
        layout: Slots of a score.
        books: By member: evidence of documents.
        settings: The gateway's deadlines.
    """

    consortium: ScoringConsortium
    clock: Clock = field(default_factory=Clock)
    nodes: dict[str, LocalNode] = field(default_factory=dict)
    policy_changes: dict[str, object] = field(default_factory=dict)
    skew_s: dict[str, float] = field(default_factory=dict)
    layout: ScoreSlots = LAYOUT
    books: dict[str, EntityTable] = field(default_factory=dict)
    settings: GatewaySettings = field(
        default_factory=lambda: GatewaySettings(
            window_s_of={documents.TASK: 900}, upload_s=0.3, reveal_s=0.3, hedge_s=0.1
        )
    )

    def run(self, script: Callable[[], Awaitable[_Result]]) -> _Result:
        """Start with all members, run a script in the same event loop, end everything; the script's result."""

        async def whole() -> _Result:
            await self.start()
            try:
                return await asyncio.wait_for(script(), SCRIPT_S)
            finally:
                await self.stop()

        return asyncio.run(whole())

    async def start(self, *members: str) -> None:
        """Start the gateway, connect these members (all by default), and wait for their epoch."""
        self.open_gateway()
        await self.connect(*(members or self.consortium.members))

    def open_gateway(self) -> None:
        """A gateway with a new process's empty memory, and what an earlier one left on the disk."""
        state, keys = self.consortium.folder / "coordinator" / "state", self.consortium.folder / "coordinator" / "keys"
        self.gateway = ScoringGateway(
            self.consortium.agreement,
            {TASK: self.layout, documents.TASK: ScoreSlots.of_documents()},
            AnswerStore(state, SigningKey(load_identity_key(keys / "identity.pem"))),
            RevocationLists(state / "revocations"),
            self.settings,
            self.clock,
        )
        self.gateway.streams.start()

    async def restart_gateway(self) -> None:
        """Kill the gateway, and let its nodes come to the next one."""
        members = tuple(self.nodes)
        for member in members:
            await self.disconnect(member)
        self.gateway.close()
        self.open_gateway()
        await self.connect(*members)

    async def connect(self, *members: str) -> None:
        """Connect nodes, each with a new process's empty memory and its journal, and wait for the epoch."""
        before = self.gateway.streams.epoch
        for member in members:
            node = self.nodes[member] = self._node(member)
            node.task = asyncio.create_task(self.gateway.streams.attend(member, node))
        while self.gateway.streams.epoch is before or not set(members) <= self._cohort():  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def disconnect(self, member: str) -> None:
        """End a node as a kill does; its journal stays."""
        node = self.nodes.pop(member)
        node.end()
        if node.task is not None:
            with suppress(asyncio.CancelledError):  # the gateway may have closed the stream before
                await node.task
        node.journal.close()

    async def stop(self) -> None:
        """End everything."""
        for member in list(self.nodes):
            await self.disconnect(member)
        self.gateway.close()

    async def ask(self, *tokens: bytes, grant: bytes | None = None, **changes: str) -> Any:
        """Score these entities; the answers, or the code of the refusal."""
        asked = {"task": TASK, "model_version": MODEL_VERSION, "purpose": PURPOSE, "requester": CLIENT} | changes
        question = Question(**asked, grant=grant if grant is not None else self.grant(*tokens))
        try:
            return await self.gateway.score(question, tokens)
        except NotAnswered as refused:
            return refused.code

    def grant(self, *tokens: bytes, **changes: Any) -> bytes:
        """A grant under this clock."""
        return self.consortium.grant(tokens, now_s=int(self.clock()), **changes)

    def _cohort(self) -> set[str]:
        epoch = self.gateway.streams.epoch
        return set(epoch.links) if epoch is not None else set()

    def _node(self, member: str) -> LocalNode:
        folder, agreement = self.consortium.folder, self.consortium.agreement
        identity = load_identity(folder / member / "keys" / "identity.pem", folder / member / "keys" / "tls.pem")
        membership = Membership(
            member=member, identity=SigningKey(identity.identity_key), agreement=agreement, policy=node_policy()
        )
        skew = self.skew_s.get(member, 0.0)

        def now() -> float:
            return self.clock() + skew

        policy = load_scoring_policy(folder / member / "scoring.toml")
        policy = ScoringPolicy.model_validate({**policy.model_dump(), **self.policy_changes})
        journal = Journal(Path(folder) / member / "state" / "scoring", now)
        revocations = RevocationStore(revocations_folder(folder / member / "state"), policy.issuer_keys)
        guard = ScoringGuard(policy, agreement, member, journal, revocations, now, token_key=self.consortium.token_key)
        tables = {(TASK, MODEL_VERSION): self.consortium.tables[member]}
        if member in self.books:
            tables[documents.TASK, documents.VERSION] = self.books[member]
        return LocalNode(member, ScoringResponder(membership, guard, tables, now=now), journal)


def node_policy() -> NodePolicy:
    """A policy for training that allows nothing but the task: scoring has its own."""
    return NodePolicy(
        format="tallystick-node-policy/1", tasks=(TASK,), purposes=(PURPOSE,), methods=(), min_cohort=3, max_rounds=1
    )

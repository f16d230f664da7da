"""A scoring consortium on real streams in one process: gRPC over mutual TLS between threads, with faults by member.

Between the queues of `simulations.scoring_in_process` and the processes of `simulations.scoring_processes`: everything
of the wire is real, and a test can still turn a node's clock, change its policy, or put a liar in its place.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import grpc

from coordinator.revocations import RevocationLists
from coordinator.scoring_front import SERVICE, ScoringFront
from coordinator.scoring_gateway import ScoringGateway
from coordinator.scoring_opening import GatewaySettings
from coordinator.scoring_store import AnswerStore
from models.score_slots import ScoreSlots
from nodes.scoring import ScoringResponder
from nodes.scoring_service import ScoringService
from nodes.scoring_tables import EntityTable
from policies import documents
from policies.key_files import load_identity_key
from policies.scoring_policy import ScoringPolicy, load_scoring_policy
from protos.scoring.v1 import scoring_pb2 as pb
from protos.sealed_sum.keys import SigningKey
from simulations.scoring_consortium import CLIENT, LAYOUT, MODEL_VERSION, PURPOSE, TASK, ScoringConsortium
from simulations.scoring_processes import connection, membership_of

DEADLINE_S = 20.0
READY_S = 30.0


@dataclass(eq=False)
class LiveScoring:
    """Gateway, nodes and a client.

    Attributes:
        consortium: Keys, tables, policies.
        layouts: Task -> slots, at the gateway.
        settings: The gateway's deadlines.
        books: By member: evidence of documents.
        policy_changes: Of every node.
        skew_s: By member: how far its clock is ahead.
        liars: By member: what answers in its place.
        services: By member, those that run.
    """

    consortium: ScoringConsortium
    layouts: Mapping[str, ScoreSlots] = field(
        default_factory=lambda: {TASK: LAYOUT, documents.TASK: ScoreSlots.of_documents()}
    )
    settings: GatewaySettings = field(
        default_factory=lambda: GatewaySettings(
            window_s_of={documents.TASK: 900}, upload_s=0.5, reveal_s=0.5, hedge_s=0.2
        )
    )
    books: dict[str, EntityTable] = field(default_factory=dict)
    policy_changes: dict[str, object] = field(default_factory=dict)
    skew_s: dict[str, float] = field(default_factory=dict)
    liars: dict[str, type[ScoringResponder]] = field(default_factory=dict)
    services: dict[str, ScoringService] = field(default_factory=dict)
    port: int = 0

    def __enter__(self) -> Self:
        self.open_gateway()
        self.start(*self.consortium.members)
        return self

    def __exit__(self, *_: object) -> None:
        for member in list(self.services):
            self.stop(member)
        self.front.stop()

    def open_gateway(self) -> None:
        """Serve, on the port of before if there was one."""
        folder, agreement = self.consortium.folder, self.consortium.agreement
        keys, state = folder / "coordinator" / "keys", folder / "coordinator" / "state"
        self.front = ScoringFront(
            lambda: ScoringGateway(
                agreement,
                self.layouts,
                AnswerStore(state, SigningKey(load_identity_key(keys / "identity.pem"))),
                RevocationLists(state / "revocations"),
                self.settings,
            ),
            folder / "coordinator" / "members",
            folder / "coordinator" / "clients",
        )
        self.port = self.front.start(
            "127.0.0.1",
            self.port,
            certificate=keys / "server.crt",
            key=keys / "server.pem",
            ca_certificate=keys / "consortium-ca.crt",
        )

    def start(self, *members: str) -> None:
        """Start nodes, and wait until there are keys with all that run."""
        for member in members:
            self.services[member] = self._service(member)
            self.services[member].start()
        self.wait_for_epoch()

    def stop(self, member: str) -> None:
        """Stop a node."""
        self.services.pop(member).stop()

    def wait_for_epoch(self) -> None:
        """Wait until the current keys are those of exactly the nodes that run.

        Raises:
            TimeoutError: They are not in time.
        """
        expected, ends_at = set(self.services), time.monotonic() + READY_S
        while time.monotonic() < ends_at:
            epoch = self.gateway.streams.epoch
            if epoch is not None and set(epoch.links) == expected:
                return
            time.sleep(0.02)
        raise TimeoutError(f"no keys with {', '.join(sorted(expected))}")

    @property
    def gateway(self) -> ScoringGateway:
        """The gateway; its own thread calls it."""
        if self.front.gateway is None:
            raise RuntimeError("the gateway has not been started")
        return self.front.gateway

    def channel(self) -> grpc.Channel:
        """A client's connection."""
        folder = self.consortium.folder
        credentials = grpc.ssl_channel_credentials(
            (folder / "coordinator" / "keys" / "consortium-ca.crt").read_bytes(),
            (folder / "client" / f"{CLIENT}.pem").read_bytes(),
            (folder / "client" / f"{CLIENT}.crt").read_bytes(),
        )
        return grpc.secure_channel(f"127.0.0.1:{self.port}", credentials)

    def ask(self, token: bytes, *, grant: bytes | None = None, **changes: Any) -> pb.ScoreReply | str:
        """The answer about an entity, or the code of the refusal."""
        terms = {"task": TASK, "model_version": MODEL_VERSION, "purpose": PURPOSE} | changes
        request = pb.ScoreRequest(
            entity=token, grant=grant if grant is not None else self.consortium.grant([token]), **terms
        )
        with self.channel() as channel:
            call = channel.unary_unary(
                f"/{SERVICE}/Score",
                request_serializer=pb.ScoreRequest.SerializeToString,
                response_deserializer=pb.ScoreReply.FromString,
            )
            try:
                reply: pb.ScoreReply = call(request, timeout=DEADLINE_S)
            except grpc.RpcError as error:
                return str(error.details()).partition(":")[0]
        return reply

    def forget_answers(self) -> None:
        """A gateway that loses its cache and its survivor sets, or pretends to."""

        async def forget() -> None:
            self.gateway._answers.clear()  # noqa: SLF001 - what a liar does
            self.gateway._locks.clear()  # noqa: SLF001

        self.front.run(forget())

    def _service(self, member: str) -> ScoringService:
        folder = self.consortium.folder
        policy = load_scoring_policy(folder / member / "scoring.toml")
        skew = self.skew_s.get(member, 0.0)
        return ScoringService(
            membership_of(folder, member),
            ScoringPolicy.model_validate({**policy.model_dump(), **self.policy_changes}),
            {(TASK, MODEL_VERSION): self.consortium.tables[member]}
            | ({(documents.TASK, documents.VERSION): self.books[member]} if member in self.books else {}),
            connection(folder, member, self.port),
            folder / member / "state",
            now=lambda: time.time() + skew,
            token_key=self.consortium.token_key,
            responder=self.liars.get(member, ScoringResponder),
        )

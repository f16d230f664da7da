"""The gateway's gRPC server: one port for nodes (`Attend`) and the platform's services (`Score`, `ScoreBatch`)."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
import uvloop
from cryptography import x509
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from coordinator.engine.admitted import Admitted, CertificateRefused, public_key_pem
from coordinator.scoring_answers import Answer, NotAnswered, Question, batch_of, score_of
from coordinator.scoring_gateway import ScoringGateway
from policies.errors import UserError
from protos.masked_sum.request import split_tokens
from protos.scoring.v1 import scoring_pb2 as pb

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 40 << 20
ADMITTED_AGAIN_S = 1.0
CHECKPOINT_TURNS = 10
SERVICE = "protos.scoring.v1.Scoring"
NODES_SERVICE = "protos.scoring.v1.ScoringNodes"
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # a second coordinator on the same port must fail, not share it
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
_STATUS = {
    "gateway_store": grpc.StatusCode.UNAVAILABLE,
    "no_members": grpc.StatusCode.UNAVAILABLE,
    "too_few_members": grpc.StatusCode.UNAVAILABLE,
    "entity_budget": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "requester_budget": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "daily_cap": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "grant": grpc.StatusCode.PERMISSION_DENIED,
    "grant_issuer": grpc.StatusCode.PERMISSION_DENIED,
    "grant_signature": grpc.StatusCode.PERMISSION_DENIED,
    "grant_expired": grpc.StatusCode.PERMISSION_DENIED,
    "grant_entity": grpc.StatusCode.PERMISSION_DENIED,
    "grant_revoked": grpc.StatusCode.PERMISSION_DENIED,
    "grant_answerers": grpc.StatusCode.PERMISSION_DENIED,
    "purpose": grpc.StatusCode.PERMISSION_DENIED,
    "task": grpc.StatusCode.PERMISSION_DENIED,
    "entities": grpc.StatusCode.INVALID_ARGUMENT,
    "request": grpc.StatusCode.INVALID_ARGUMENT,
}

_Result = TypeVar("_Result")


class ScoringFront:
    """Serves a gateway in a thread with an event loop of its own.

    Args:
        make_gateway: Makes the gateway, inside the loop.
        members_dir: Folder of `<member>.crt`: whose node may attend.
        clients_dir: Folder of `<client>.crt`: who may ask; the name is the requester that budgets count.
    """

    def __init__(self, make_gateway: Callable[[], ScoringGateway], members_dir: Path, clients_dir: Path) -> None:
        self._make_gateway = make_gateway
        self._members = Admitted(members_dir, lambda _added, _removed: None)
        self._clients = Admitted(clients_dir, lambda _added, _removed: None)
        self._peers: dict[bytes, tuple[str | None, str | None]] = {}
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scoring-gateway", daemon=True)
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self._watch: asyncio.Task[None] | None = None
        self.gateway: ScoringGateway | None = None
        self.port = 0

    def start(self, host: str, port: int, *, certificate: Path, key: Path, ca_certificate: Path) -> int:
        """Bind and serve; returns the port.

        Raises:
            UserError: The port is taken.
        """
        self._thread.start()
        credentials = grpc.ssl_server_credentials(
            [(key.read_bytes(), certificate.read_bytes())],
            root_certificates=ca_certificate.read_bytes(),
            require_client_auth=True,
        )
        self.port = self.run(self._serve(f"{host}:{port}", credentials))
        return self.port

    def stop(self) -> None:
        """End all streams and stop listening."""
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run something in the gateway's loop, from another thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def revoke(self, signed: bytes) -> bool:
        """Keep a revocation list and push it to every node; false if a newer one is known.

        Raises:
            GrantRefused: It is no list, or not signed by the issuer that it names.
        """

        async def push() -> bool:
            return self._gateway.revoke(signed)

        return self.run(push())

    @property
    def _gateway(self) -> ScoringGateway:
        if self.gateway is None:
            raise UserError("The scoring gateway has not been started.")
        return self.gateway

    async def _serve(self, address: str, credentials: grpc.ServerCredentials) -> int:
        self.gateway = self._make_gateway()
        self.gateway.streams.start()
        server = grpc.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    NODES_SERVICE,
                    {
                        "Attend": grpc.stream_stream_rpc_method_handler(
                            self._attend, pb.Packet.FromString, pb.Packet.SerializeToString
                        )
                    },
                ),
                grpc.method_handlers_generic_handler(
                    SERVICE,
                    {
                        "Score": grpc.unary_unary_rpc_method_handler(
                            self._score, pb.ScoreRequest.FromString, pb.ScoreReply.SerializeToString
                        ),
                        "ScoreBatch": grpc.unary_unary_rpc_method_handler(
                            self._score_batch, pb.ScoreBatchRequest.FromString, pb.ScoreBatchReply.SerializeToString
                        ),
                    },
                ),
            )
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (SERVICE, NODES_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        try:
            port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise UserError(
                f"Could not listen for scoring on {address}, the port is probably in use; choose another."
            ) from error
        await server.start()
        self._server = server
        self._watch = asyncio.create_task(self._watch_changes())
        return int(port)

    async def _stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._server is not None:
            await self._server.stop(grace=None)
        if self.gateway is not None:
            self.gateway.close()

    async def _watch_changes(self) -> None:
        """Admissions and revocation lists are read again, nodes are told of openings, health follows the epoch."""
        loop = asyncio.get_running_loop()
        for turn in itertools.count():
            self._peers.clear()
            self._gateway.look_for_revocations()
            self._gateway.disclose()
            if turn % CHECKPOINT_TURNS == 0:
                await loop.run_in_executor(None, self._gateway.checkpoint)
            self._gateway.streams.keep_only(self._members.members())
            ready = self._gateway.streams.epoch is not None and bool(self._gateway.streams.online)
            status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
            for service in ("", SERVICE):
                await self._health.set(service, status)
            await asyncio.sleep(ADMITTED_AGAIN_S)

    def _peer(self, context: grpc.aio.ServicerContext[Any, Any]) -> tuple[str | None, str | None]:
        """(member, client) that the caller's certificate stands for."""
        pem = context.auth_context().get("x509_pem_cert", (b"",))[0]
        found = self._peers.get(pem)
        if found is None:
            try:
                key = public_key_pem(x509.load_pem_x509_certificate(pem))
            except (ValueError, CertificateRefused):
                return None, None
            found = self._peers[pem] = (self._members.member_of(key), self._clients.member_of(key))
        return found

    async def _attend(self, _frames: object, context: grpc.aio.ServicerContext[pb.Packet, pb.Packet]) -> None:
        member, _ = self._peer(context)
        if member is None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "this certificate's key is not a member's")
        else:
            await self._gateway.streams.attend(member, context)

    async def _ask(
        self, question: Question, tokens: tuple[bytes, ...], context: grpc.aio.ServicerContext[Any, Any]
    ) -> list[Answer]:
        try:
            return await self._gateway.score(question, tokens)
        except NotAnswered as refused:
            status = _STATUS.get(refused.code, grpc.StatusCode.FAILED_PRECONDITION)
            await context.abort(status, f"{refused.code}: {refused}")
            raise

    async def _requester(self, context: grpc.aio.ServicerContext[Any, Any]) -> str:
        _, client = self._peer(context)
        if client is None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "this certificate's key is not a client's")
            raise PermissionError
        return client

    async def _score(
        self, asked: pb.ScoreRequest, context: grpc.aio.ServicerContext[pb.ScoreRequest, pb.ScoreReply]
    ) -> pb.ScoreReply:
        requester = await self._requester(context)
        question = Question(asked.task, asked.model_version, asked.purpose, requester, asked.grant)
        (answer,) = await self._ask(question, (asked.entity,), context)
        survivors = answer.opened.survivors
        silent = self._gateway.silent_roles(survivors)
        return pb.ScoreReply(
            score=score_of(answer, self._gateway.layout(asked.task)),
            degraded=bool(silent),
            silent_roles=silent,
            survivors=survivors,
            from_cache=answer.from_cache,
            request_digest=answer.opened.request_digest,
            disclosure=answer.opened.disclosure,
        )

    async def _score_batch(
        self, asked: pb.ScoreBatchRequest, context: grpc.aio.ServicerContext[pb.ScoreBatchRequest, pb.ScoreBatchReply]
    ) -> pb.ScoreBatchReply:
        requester = await self._requester(context)
        question = Question(asked.task, asked.model_version, asked.purpose, requester, asked.grant)
        answers = await self._ask(question, split_tokens(asked.entities), context)
        reply = batch_of(answers, self._gateway.layout(asked.task))
        survivors = frozenset.intersection(*(frozenset(answer.opened.survivors) for answer in answers))
        silent = self._gateway.silent_roles(tuple(survivors))
        reply.degraded = bool(silent)
        reply.silent_roles.extend(silent)
        return reply

"""The node's outbound stream to the scoring gateway: mutual TLS, kept open, opened again with back-off."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.protobuf.message import DecodeError

from nodes.scoring import MAX_MESSAGE_BYTES, ScoringResponder
from nodes.scoring_journal import Journal
from protos.scoring.v1 import scoring_pb2 as pb

log = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
MAX_UPLOAD_BYTES = 40 << 20
METHOD = "/protos.scoring.v1.ScoringNodes/Attend"
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_UPLOAD_BYTES),
    ("grpc.keepalive_time_ms", 20_000),  # a dead link is noticed within half a minute
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.use_local_subchannel_pool", 1),  # a new connection never inherits a broken one's back-off
)


@dataclass(frozen=True)
class GatewayConnection:
    """Where the gateway is and how this node proves who it is; files as for the fleet connection."""

    address: str
    ca_certificate_path: Path
    certificate_path: Path
    key_path: Path = field(repr=False)

    def credentials(self) -> grpc.ChannelCredentials:
        """The channel's credentials."""
        return grpc.ssl_channel_credentials(
            self.ca_certificate_path.read_bytes(), self.key_path.read_bytes(), self.certificate_path.read_bytes()
        )


async def attend(
    connection: GatewayConnection,
    responder: ScoringResponder,
    journal: Journal,
    stop: asyncio.Event,
    *,
    on_online: Callable[[], None] | None = None,
) -> None:
    """Answer the gateway until `stop` is set, connecting again whenever the stream ends."""
    wait_s = FIRST_WAIT_S
    stopped = asyncio.ensure_future(stop.wait())
    while not stop.is_set():
        async with grpc.aio.secure_channel(connection.address, connection.credentials(), options=OPTIONS) as channel:
            call = channel.stream_stream(
                METHOD, request_serializer=pb.Packet.SerializeToString, response_deserializer=pb.Packet.FromString
            )()
            session = asyncio.ensure_future(_Session(call, responder, journal).serve(on_online))
            await asyncio.wait({session, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                session.cancel()
            try:
                if await session:
                    wait_s = FIRST_WAIT_S
            except asyncio.CancelledError:
                break
            except grpc.RpcError as error:
                log.info(
                    "the scoring stream ended: %s", error.code() if isinstance(error, grpc.aio.AioRpcError) else error
                )
            except OSError as problem:  # the journal's disk: nothing may be answered without it
                log.error("no scores are answered, the journal cannot be written: %s", problem.strerror)  # noqa: TRY400
        await asyncio.wait({stopped}, timeout=wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


class _Session:
    def __init__(
        self, call: grpc.aio.StreamStreamCall[pb.Packet, pb.Packet], responder: ScoringResponder, journal: Journal
    ) -> None:
        self._call = call
        self._responder = responder
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._outbox: list[bytes] = []
        self._to_flush = 0
        self._writing = False
        self._late: set[asyncio.Task[None]] = set()

    async def serve(self, on_online: Callable[[], None] | None) -> bool:
        """Serve until the stream ends; true if the gateway had admitted this node."""
        await self._call.initial_metadata()
        self._responder.connected()
        log.info("online at the scoring gateway")
        if on_online is not None:
            on_online()
        try:
            while (packet := await self._call.read()) is not grpc.aio.EOF:
                for message in packet.messages:
                    self._answer(pb.ToNode.FromString(message))
                await self._write()
        except DecodeError:
            log.warning("the gateway sent bytes that are no message; connecting again")
            self._call.cancel()
        finally:
            for task in self._late:
                task.cancel()
        return True

    def _answer(self, message: pb.ToNode) -> None:
        reply = self._responder.handle(message)
        if reply is None:
            return
        data = reply.message.SerializeToString()
        self._to_flush = max(self._to_flush, reply.flush)
        if not reply.ticket or self._journal.when_durable(reply.ticket, lambda: self._later(data)):
            self._outbox.append(data)

    def _later(self, data: bytes) -> None:
        """From the journal's thread: the entry is on the disk, the answer may leave."""
        with suppress(RuntimeError):  # the loop has ended in between
            self._loop.call_soon_threadsafe(self._send_late, data)

    def _send_late(self, data: bytes) -> None:
        self._outbox.append(data)
        if not self._writing:
            task = self._loop.create_task(self._write())
            self._late.add(task)
            task.add_done_callback(self._written_late)

    def _written_late(self, task: asyncio.Task[None]) -> None:
        self._late.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._call.cancel()  # the stream is broken: reading ends too, and the node connects again

    async def _write(self) -> None:
        """Send what waits, all of it at once; one write at a time on a stream. Then have the journal flushed."""
        if self._writing:
            return
        self._writing = True
        try:
            while self._outbox:
                messages, self._outbox = self._outbox, []
                await self._call.write(pb.Packet(messages=messages))
        finally:
            self._writing = False
        if self._to_flush:
            self._journal.flush_soon(self._to_flush)
            self._to_flush = 0

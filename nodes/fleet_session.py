"""One session of a node with its coordinator, from signing on to the end of the stream."""

import logging
import queue
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

import grpc
import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Message, RecordDict
from flwr.app.error import Error
from flwr.clientapp import ClientApp
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, ErrorCode
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from nodes.fleet_errors import ConnectionLost, FleetError, sort_error
from protos.fleet_stream.flower_messages import MessageRefused, from_bytes, to_bytes
from protos.fleet_stream.frames import MAX_FRAME_MESSAGE_BYTES, MAX_MESSAGE_BYTES, Assembler, FrameRefused, split
from protos.fleet_stream.records import STREAM_PORT_HEADER
from protos.fleet_stream.v1.fleet_stream_pb2 import Frame
from protos.fleet_stream.v1.fleet_stream_pb2_grpc import FleetStreamStub

logger = logging.getLogger(__name__)

HEARTBEAT_S = 20.0
"""Flower counts a node as gone 60 s after its last heartbeat."""

OPEN_TIMEOUT_S = 10.0
"""How long the coordinator may take to admit a stream."""

REQUEST_TIMEOUT_S = 10.0
"""For each socket operation of a request to Flower's routes, all of which are small."""

OPTIONS = (
    ("grpc.max_receive_message_length", MAX_FRAME_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_FRAME_MESSAGE_BYTES),
    ("grpc.http2.max_frame_size", 1 << 20),  # 16 KiB by default; a tenth less CPU at 2 MB
    ("grpc.keepalive_time_ms", 20_000),  # a dead link is noticed within half a minute
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.use_local_subchannel_pool", 1),  # a new session never inherits a broken connection or its back-off
)

ResponseT = TypeVar("ResponseT")


@dataclass(frozen=True)
class Credentials:
    """This node's key and certificates, loaded."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    key_pem: bytes = field(repr=False)
    certificate_pem: bytes
    ca_pem: bytes
    tls: ssl.SSLContext


class Session:
    """Signed on at Flower's fleet routes, with an open stream."""

    def __init__(
        self,
        fleet: "_Fleet",
        node_id: int,
        channel: grpc.Channel,
        outgoing: "queue.SimpleQueue[tuple[str, bytes] | None]",
        call: "grpc.CallIterator[Frame]",
    ) -> None:
        self._fleet = fleet
        self._node_id = node_id
        self._channel = channel
        self._outgoing = outgoing
        self._call = call
        self._contexts: dict[int, Context] = {}

    @classmethod
    def open(cls, address: str, credentials: Credentials, state_dir: Path) -> Self:
        """Sign on and open the stream.

        Raises:
            ConnectionLost: The coordinator cannot be reached now.
            FleetError: It does not accept this node.
        """
        fleet = _Fleet(address, credentials)
        try:
            node_id = _sign_on(fleet, credentials, state_dir / "flower_node_id")
            host = address.rpartition(":")[0]
            channel = grpc.secure_channel(
                f"{host}:{fleet.stream_port()}",
                grpc.ssl_channel_credentials(credentials.ca_pem, credentials.key_pem, credentials.certificate_pem),
                options=OPTIONS,
            )
        except (ConnectionLost, FleetError):
            fleet.close()
            raise
        outgoing: queue.SimpleQueue[tuple[str, bytes] | None] = queue.SimpleQueue()
        stub = FleetStreamStub(channel)  # type: ignore[no-untyped-call]  # generated
        call = stub.Exchange(_frames(outgoing))
        session = cls(fleet, node_id, channel, outgoing, call)
        try:
            _wait_admitted(call, address)
        except (ConnectionLost, FleetError):
            session.close()
            raise
        return session

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def serve(self, app: ClientApp) -> None:
        """Answer messages until the stream ends."""
        assembler = Assembler()
        try:
            for frame in self._call:
                complete = assembler.add(frame)
                if complete is not None:
                    self._answer(app, *complete)
        except FrameRefused as refused:
            logger.warning("the coordinator broke the stream's rules: %s", refused)
        except grpc.RpcError as error:
            logger.info("the stream ended: %s", _status_of(error))
        except ConnectionLost as lost:
            logger.info("the coordinator went away: %s", lost)

    def heartbeat(self) -> None:
        """Tell Flower that this node lives.

        Raises:
            ConnectionLost: The coordinator cannot be reached, or does not count this node as online any more.
            FleetError: It does not accept this node any more.
        """
        response = self._fleet.call(
            self._fleet.client.SendNodeHeartbeat,
            SendNodeHeartbeatRequest(node=Node(node_id=self._node_id), heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL),
        )
        if not response.success:
            raise ConnectionLost("the coordinator does not know this session any more")

    def cancel(self) -> None:
        """End the stream, from any thread."""
        self._call.cancel()

    def close(self) -> None:
        """Close the stream, at whose end the coordinator signs this node off, and release everything."""
        self._outgoing.put(None)
        self._call.cancel()
        self._channel.close()
        self._fleet.close()

    def _answer(self, app: ClientApp, message_id: str, payload: bytes) -> None:
        """Run one message through the app and queue its reply."""
        try:
            message = from_bytes(payload)
            context = self._context(message.metadata.run_id)
        except MessageRefused as error:
            logger.warning("ignoring a malformed message: %s", error)
            return
        if context is None:
            logger.warning("ignoring a message of run %d, which is not running", message.metadata.run_id)
            return
        try:
            answer = to_bytes(app(message, context))
        except ValueError as error:  # the app has no function for this type of message
            logger.warning("cannot answer a message: %s", error)
            answer = _error_reply(message, "no such function")
        if len(answer) > MAX_MESSAGE_BYTES:
            logger.error("an answer of %d bytes is longer than a message may be", len(answer))
            answer = _error_reply(message, "the answer is too long")
        self._outgoing.put((message_id, answer))

    def _context(self, run_id: int) -> Context | None:
        """Context of a run that Flower says is running; None if it says otherwise."""
        if run_id not in self._contexts:
            request = GetRunRequest(node=Node(node_id=self._node_id), run_id=run_id)
            try:
                self._fleet.call(self._fleet.client.GetRun, request)
            except ConnectionLost as lost:
                if lost.status is None:
                    raise  # nobody said that the run is over; the message comes again on the next stream
                logger.info("asked for run %d: %s", run_id, lost)
                return None
            self._contexts = {
                run_id: Context(run_id=run_id, node_id=self._node_id, node_config={}, state=RecordDict(), run_config={})
            }
        return self._contexts[run_id]


class _Fleet:
    """Flower's fleet client, with our TLS and our errors."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        self._address = address
        self._stream_port = _StreamPort()
        self.client = FleetHttpClient(
            f"https://{address}",
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(credentials.key, credentials.key.public_key()),
                self._stream_port,
            ],
            verify=credentials.tls,
            timeout=REQUEST_TIMEOUT_S,
        )

    def call(self, method: Callable[..., ResponseT], request: object) -> ResponseT:
        """Send a request, with failures sorted."""
        try:
            return method(request)
        except httpx.HTTPError as error:
            raise sort_error(error, self._address) from error

    def stream_port(self) -> int:
        """Port of the stream, as the last answer stated it."""
        if self._stream_port.port is None:
            raise FleetError(
                f"{self._address} does not answer as a Tallystick coordinator; check the address in node.toml."
            )
        return self._stream_port.port

    def close(self) -> None:
        """Close the connections."""
        self.client.close()


class _StreamPort:
    """Client interceptor that reads the stream's port off every answer."""

    port: int | None = None

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Pass the request on."""
        response: httpx.Response = call_next(context)
        stated = response.headers.get(STREAM_PORT_HEADER, "")
        if stated.isdecimal():
            self.port = int(stated)
        return response


def _sign_on(fleet: _Fleet, credentials: Credentials, node_id_path: Path) -> int:
    """Activate at Flower; if it still counts a killed process of this node as online, release that one first."""
    request = ActivateNodeRequest(
        public_key=public_key_to_bytes(credentials.key.public_key()),
        heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL,
    )
    try:
        node_id = int(fleet.call(fleet.client.ActivateNode, request).node_id)
    except ConnectionLost as lost:
        if lost.status != httpx.codes.PRECONDITION_FAILED or not node_id_path.exists():
            raise
        logger.info("releasing the connection of this node's last process")
        node_id = int(node_id_path.read_text())
        fleet.call(fleet.client.DeactivateNode, DeactivateNodeRequest(node_id=node_id))
        fleet.call(fleet.client.ActivateNode, request)
    node_id_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = node_id_path.with_suffix(".new")
    draft.write_text(str(node_id))
    draft.replace(node_id_path)
    return node_id


def _wait_admitted(call: "grpc.CallIterator[Frame]", address: str) -> None:
    """Wait for the coordinator's initial metadata, which says that the stream is admitted."""
    patience = threading.Timer(OPEN_TIMEOUT_S, call.cancel)
    patience.daemon = True
    patience.start()
    call.initial_metadata()
    patience.cancel()
    # Metadata arrive empty, without an exception, when the call has already failed.
    if not call.is_active():
        code = call.code()
        if code in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}:
            raise FleetError(f"{address} has not admitted the key of this node's certificate.")
        raise ConnectionLost(f"the stream was refused: {code}")


def _error_reply(message: Message, reason: str) -> bytes:
    return to_bytes(Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message))


def _frames(outgoing: "queue.SimpleQueue[tuple[str, bytes] | None]") -> Iterator[Frame]:
    """Frames of each reply in turn, until None is queued."""
    while (reply := outgoing.get()) is not None:
        yield from split(*reply)


def _status_of(error: grpc.RpcError) -> str:
    code = error.code() if isinstance(error, grpc.Call) else None
    return str(code)

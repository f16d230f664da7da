"""The gRPC end of the nodes' streams: who may open one, and frames in and out."""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from cryptography import x509

from coordinator.engine.admitted import Admitted, CertificateRefused, public_key_pem
from coordinator.engine.hub import Hub, Link
from policies.errors import UserError
from protos.fleet_stream.frames import MAX_FRAME_MESSAGE_BYTES, Assembler, FrameRefused
from protos.fleet_stream.v1.fleet_stream_pb2 import Frame
from protos.fleet_stream.v1.fleet_stream_pb2_grpc import (
    FleetStreamServicer,
    add_FleetStreamServicer_to_server,
)

logger = logging.getLogger(__name__)

MAX_STREAMS = 128
"""Each open stream holds one thread of the pool; threads are made when they are needed."""

OPTIONS = (
    ("grpc.max_receive_message_length", MAX_FRAME_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_FRAME_MESSAGE_BYTES),
    ("grpc.http2.max_frame_size", 1 << 20),  # 16 KiB by default; a tenth less CPU at 2 MB
    ("grpc.so_reuseport", 0),  # a second coordinator on the same port must fail, not share it
    ("grpc.keepalive_time_ms", 20_000),  # a node behind a dead link is noticed within half a minute
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


class StreamServer:
    """Serves `FleetStream` with a required client certificate.

    Args:
        hub: Where messages come from and replies go.
        admitted: Who may connect.
        on_lost: Called with the member when its current stream has ended.
    """

    def __init__(self, hub: Hub, admitted: Admitted, on_lost: Callable[[str], None]) -> None:
        self._server = grpc.server(
            ThreadPoolExecutor(MAX_STREAMS, thread_name_prefix="fleet-stream"),
            options=OPTIONS,
            maximum_concurrent_rpcs=MAX_STREAMS,
        )
        add_FleetStreamServicer_to_server(  # type: ignore[no-untyped-call]  # generated
            _Exchange(hub, admitted, on_lost), self._server
        )

    def start(self, host: str, port: int, *, certificate: Path, key: Path, ca_certificate: Path) -> int:
        """Bind and serve.

        Returns:
            The port, which the system has chosen if `port` is 0.

        Raises:
            UserError: The port is taken.
        """
        credentials = grpc.ssl_server_credentials(
            [(key.read_bytes(), certificate.read_bytes())],
            root_certificates=ca_certificate.read_bytes(),
            require_client_auth=True,
        )
        try:
            bound = self._server.add_secure_port(f"{host}:{port}", credentials)
        except RuntimeError as error:
            raise UserError(
                f"Could not listen for node streams on {host}:{port}, the port is probably in use; "
                "choose another stream port in coordinator.toml."
            ) from error
        self._server.start()
        return int(bound)

    def stop(self) -> None:
        """End all streams and stop listening."""
        self._server.stop(grace=None).wait()


class _Exchange(FleetStreamServicer):
    def __init__(self, hub: Hub, admitted: Admitted, on_lost: Callable[[str], None]) -> None:
        self._hub = hub
        self._admitted = admitted
        self._on_lost = on_lost

    def Exchange(  # noqa: N802 - the name is the service's
        self, request_iterator: Iterator[Frame], context: grpc.ServicerContext
    ) -> Iterator[Frame]:
        """Serve one node's stream until either end closes it."""
        member = self._admitted.member_of(_peer_key(context))
        if member is None:
            context.set_code(grpc.StatusCode.PERMISSION_DENIED)
            context.set_details("this certificate's key is not admitted")
            return
        link = self._hub.attach(member, context.cancel)
        # Not in a `finally` of this generator: gRPC may drop it without running it to its end.
        if not context.add_callback(lambda: self._end(link)):
            self._end(link)
            return
        threading.Thread(
            target=self._read, args=(link, request_iterator, context), name=f"replies-{member}", daemon=True
        ).start()
        logger.info("%s is online", member)
        context.send_initial_metadata(())
        yield from self._hub.frames(link)

    def _end(self, link: Link) -> None:
        if self._hub.detach(link):
            logger.info("%s is offline", link.member)
            self._on_lost(link.member)

    def _read(self, link: Link, frames: Iterator[Frame], context: grpc.ServicerContext) -> None:
        """Hand the node's replies to the hub until the stream ends."""
        assembler = Assembler()
        try:
            for frame in frames:
                complete = assembler.add(frame)
                if complete is not None and not self._hub.accept(link.member, *complete):
                    logger.info("a reply of %s came late or twice and is ignored", link.member)
        except FrameRefused as refused:
            logger.warning("closing the stream of %s: %s", link.member, refused)
            context.cancel()
        except grpc.RpcError:
            logger.debug("the stream of %s ended", link.member)
        link.outbox.put(None)


def _peer_key(context: grpc.ServicerContext) -> bytes:
    """Public key of the certificate the caller has proved to hold; empty if it carries none that could be admitted."""
    pem = context.auth_context().get("x509_pem_cert", (b"",))[0]
    try:
        return public_key_pem(x509.load_pem_x509_certificate(pem))
    except (ValueError, CertificateRefused):
        return b""

"""What the public port shows: Flower's fleet routes, to admitted members, and nothing else."""

import asyncio
import ssl
from base64 import b64decode
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

from cryptography import x509
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from coordinator.engine.admitted import Admitted, CertificateRefused, public_key_pem
from protos.fleet_stream.records import NOT_ADMITTED_HEADER, STREAM_PORT_HEADER

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

FLEET_PREFIX = "/v1/fleet/"
NOT_ADMITTED = (NOT_ADMITTED_HEADER.encode(), b"1")

PEER_KEY = "tallystick.peer_key"
"""Scope entry: public key (PEM) of the client certificate this connection was opened with."""


class PeerKeyProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which also tells the application whose certificate opened the connection."""

    peer_key: bytes = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """Note the peer's key: the TLS layer has already checked that the peer holds it."""
        super().connection_made(transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        der = tls.getpeercert(binary_form=True) if tls is not None else None
        if der:
            try:
                self.peer_key = public_key_pem(x509.load_der_x509_certificate(der))
            except (ValueError, CertificateRefused):
                self.peer_key = b""

    def on_message_begin(self) -> None:
        """Put the key beside what uvicorn puts into each request's scope."""
        super().on_message_begin()
        cast("Scope", self.scope)[PEER_KEY] = self.peer_key

    def shutdown(self) -> None:
        """Close an idle connection at once: a TLS goodbye would outlive the event loop."""
        super().shutdown()
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None before the first request
        if cycle is None or cycle.response_complete:
            self.transport.abort()


class Gate:
    """ASGI wrapper around the SuperLink.

    Passes a request only if its path is a fleet route, its client certificate carries an admitted member's key, and
    the key it signs its Flower requests with is the same one: a member cannot speak as another, whatever it signs.

    Args:
        app: The SuperLink.
        admitted: Who may connect.
        key_header: Request header with the base64 of the signing key, PEM.
        stream_port: Tells the port of the stream, which every answer carries.
    """

    def __init__(self, app: AsgiApp, admitted: Admitted, *, key_header: str, stream_port: Callable[[], int]) -> None:
        self._app = app
        self._admitted = admitted
        self._key_header = key_header.lower().encode()
        self._stream_port = stream_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the start and the end of the application."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http" or not scope["path"].startswith(FLEET_PREFIX):
            await _answer(send, 404, b"not found")
        elif self._admitted.member_of(scope[PEER_KEY]) is None:
            await _answer(send, 403, b"this certificate's key is not admitted", NOT_ADMITTED)
        elif not self._signs_with_certificate_key(scope):
            await _answer(send, 403, b"sign requests with the client certificate's key", NOT_ADMITTED)
        else:
            await self._app(scope, receive, self._with_stream_port(send))

    def _signs_with_certificate_key(self, scope: Scope) -> bool:
        claimed = next((value for name, value in scope["headers"] if name == self._key_header), b"")
        try:
            return bool(b64decode(claimed, validate=True) == scope[PEER_KEY])
        except ValueError:
            return False

    def _with_stream_port(self, send: Send) -> Send:
        header = (STREAM_PORT_HEADER.encode(), str(self._stream_port()).encode())

        async def send_with_header(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        return send_with_header


async def _answer(send: Send, status: int, text: bytes, *more: tuple[bytes, bytes]) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})

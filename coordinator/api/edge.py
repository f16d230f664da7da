"""The outermost layer: how much may be under way, an id for every request, and the headers that every answer has.

Pure ASGI: a wrapped request class would cost more than a score.
"""

from __future__ import annotations

import re
import secrets
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.api.problems import problem_response

MAX_IN_FLIGHT: Final = 256
"""Requests that may be under way: beyond, the caller is told at once instead of waiting in a queue."""

REQUEST_ID: Final = "X-Request-Id"
_GIVEN_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
_HSTS: Final = "max-age=63072000; includeSubDomains"
_ALWAYS_ANSWERED: Final = frozenset({"/healthz", "/readyz"})


class Edge:
    """Wraps the whole application.

    Args:
        app: What answers.
        max_in_flight: Requests that may be under way.
    """

    def __init__(self, app: ASGIApp, *, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        self._app = app
        self._max_in_flight = max_in_flight
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection's event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        secure = scope.get("scheme") == "https"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = request_id
                headers.update(_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
                if secure:
                    headers["Strict-Transport-Security"] = _HSTS
            await send(message)

        if self.in_flight >= self._max_in_flight and scope["path"] not in _ALWAYS_ANSWERED:
            answer = problem_response(
                "busy",
                f"Expected at most {self._max_in_flight} requests under way, found that many; send it again later.",
                headers={"Retry-After": "1", "Connection": "close"},  # the body, unread, cannot be skipped
            )
            await answer(scope, receive, send_with_headers)
            return
        self.in_flight += 1
        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            self.in_flight -= 1


def _request_id(scope: Scope) -> str:
    """The caller's own id if it has the form of one, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _GIVEN_ID.fullmatch(value):
            return str(value, "ascii")
    return secrets.token_hex(8)

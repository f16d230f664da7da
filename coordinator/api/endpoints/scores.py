"""Scores of a released model: one applicant a request, or many as a stream of lines."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from coordinator.api.applicant import example_applicants, features_schema
from coordinator.api.endpoint import JSON, Call, Endpoint, shown
from coordinator.api.problems import PROBLEMS, TYPE_PREFIX, ProblemError
from coordinator.api.scores import Score, score_applicant
from coordinator.api.services import Services
from coordinator.api.strict_json import MAX_BODY_BYTES, parse_strict, read_json, require_media_type
from models.artefact import Model

NDJSON: Final = "application/x-ndjson"
MAX_BATCH: Final = 100_000
"""Applicants in one stream."""


def endpoints_for(model: Model) -> tuple[Endpoint, ...]:
    """The endpoints, with the model's own features in the description."""

    async def one(call: Call[Services]) -> Response:
        """Score one applicant."""
        return shown(score_applicant(model, await read_json(call.request)))

    async def many(call: Call[Services]) -> Response:
        """Score a line at a time, while lines still come in."""
        require_media_type(call.request, NDJSON)
        return _Duplex(_scored(model, _lines(call)))

    body = {"schema": features_schema(model), "examples": example_applicants(model)}
    lines = {"schema": {"type": "string", "description": "One applicant a line, each as of POST /v1/scores"}}
    common: dict[str, Any] = {"method": "POST", "scope": "scores:write", "tag": "scores"}
    return (
        Endpoint(
            path="/v1/scores",
            summary="Score one applicant",
            handler=one,
            reads_itself={JSON: body},
            answer=Score,
            problems=("invalid-features",),
            **common,
        ),
        Endpoint(
            path="/v1/scores/batch",
            summary=f"Score up to {MAX_BATCH} applicants: JSON lines in, JSON lines out, in order, as they come",
            handler=many,
            reads_itself={NDJSON: lines},
            media_type=NDJSON,
            **common,
        ),
    )


class _Duplex(Response):
    """Lines out while lines come in.

    Starlette's streaming response listens for the client's end meanwhile, and would take the body's parts for itself.
    """

    def __init__(self, lines: AsyncIterator[bytes]) -> None:
        super().__init__(media_type=NDJSON)
        del self.headers["content-length"]
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send what comes; stop where the client has gone."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        with suppress(ClientDisconnect):
            async for line in self._lines:
                await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _lines(call: Call[Services]) -> AsyncIterator[bytes]:
    """Lines of the body, bounded, without the empty last one.

    Raises:
        ProblemError: A line is too long.
    """
    rest = b""
    async for chunk in call.request.stream():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line
        if len(rest) > MAX_BODY_BYTES:
            raise ProblemError(
                "body-too-large", f"Expected lines of at most {MAX_BODY_BYTES} bytes, found a longer one."
            )
    if rest.strip():
        yield rest


async def _scored(model: Model, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A line for every line: a score, or the problem with that applicant. A broken stream ends with a problem."""
    number = 0
    try:
        async for line in lines:
            if number >= MAX_BATCH:
                raise ProblemError("body-too-large", f"Expected at most {MAX_BATCH} applicants, found more.")
            number += 1
            try:
                yield score_applicant(model, parse_strict(line)).model_dump_json().encode() + b"\n"
            except ProblemError as wrong:
                yield _problem_line(wrong, number)
    except ProblemError as wrong:
        yield _problem_line(wrong, number + 1)


def _problem_line(wrong: ProblemError, line: int) -> bytes:
    status, title = PROBLEMS[wrong.name]
    document = {"type": TYPE_PREFIX + wrong.name, "title": title, "status": status, "detail": wrong.detail}
    return json.dumps({"line": line, "problem": document}).encode() + b"\n"

"""Decisions: take one, read it, explain it, prove it, pay out under it, follow it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final

import anyio
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from coordinator.api.endpoint import JSON, Call, Endpoint, kept, shown
from coordinator.api.pages import DecisionsQuery, cursor_of
from coordinator.api.problems import ProblemError
from coordinator.api.services import Services
from coordinator.decisions.errors import DecisionUnknown
from coordinator.financing.answers import DecisionAnswer, DecisionView, DisbursementAnswer, Explanation, TransitionShown
from coordinator.financing.requests import DecisionRequest, DisbursementRequest
from coordinator.financing.statuses import STEPS
from coordinator.ledger.proof_file import evidence
from policies.closed_model import ClosedModel

LOOK_EVERY_S: Final = 0.5
"""How soon a follower learns of a step."""
FOLLOWED_AT_MOST_S: Final = 300.0
"""Then the stream ends, and the client comes again with Last-Event-ID."""


class DecisionPage(ClosedModel):
    """Some decisions, newest first."""

    items: tuple[DecisionAnswer, ...]
    next: str | None = Field(description="Cursor of the next page; null at the end")


async def take(call: Call[Services]) -> Response:
    """Decide on an application."""
    principal = call.principal
    return kept(
        await call.services.financing.decide(
            principal.tenant, principal.client_id, call.body, key=call.key, request_hash=call.request_hash
        )
    )


async def read(call: Call[Services]) -> Response:
    """One decision with its steps."""
    return shown(await run_in_threadpool(call.services.financing.decision, call.tenants, call.id))


async def read_page(call: Call[Services]) -> Response:
    """A page of decisions."""
    query: DecisionsQuery = call.query

    def page() -> DecisionPage:
        items, before = call.services.financing.decisions(
            call.tenants, applicant=query.applicant, before=query.before, limit=query.limit
        )
        return DecisionPage(items=items, next=None if before is None else cursor_of(before))

    return shown(await run_in_threadpool(page))


async def explain(call: Call[Services]) -> Response:
    """A decision in words."""
    return shown(await run_in_threadpool(call.services.financing.explanation, call.tenants, call.id))


async def prove(call: Call[Services]) -> Response:
    """The file that `tallystick ledger verify` checks offline."""

    def proof() -> bytes:
        stored = call.services.store.decision(call.tenants, call.id)
        if stored is None:
            raise DecisionUnknown(call.id)
        return json.dumps(evidence(call.services.checkpointer.proof_for(stored.entry), stored)).encode()

    return Response(await run_in_threadpool(proof), media_type=JSON)


async def disburse(call: Call[Services]) -> Response:
    """Pay out."""
    principal = call.principal
    return kept(
        await call.services.financing.disburse(
            principal.tenant, principal.client_id, call.id, call.body, key=call.key, request_hash=call.request_hash
        )
    )


async def follow(call: Call[Services]) -> Response:
    """Steps of a decision as they happen, as server-sent events."""
    seen = _last_event_id(call)
    view = await run_in_threadpool(call.services.financing.decision, call.tenants, call.id)
    return StreamingResponse(
        _steps(call, view, seen), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
    )


def _last_event_id(call: Call[Services]) -> int:
    given = call.request.headers.get("last-event-id", "0")
    if not (given.isascii() and given.isdigit() and len(given) <= 9):
        raise ProblemError(
            "bad-request",
            "Expected Last-Event-ID to be the id of an event of this stream, found another; leave it out.",
        )
    return int(given)


async def _steps(call: Call[Services], view: DecisionView, seen: int) -> AsyncIterator[bytes]:
    ends = anyio.current_time() + FOLLOWED_AT_MOST_S
    while True:
        for step in view.transitions:
            if step.number > seen:
                seen = step.number
                yield _event(step)
        if not STEPS[view.status]:
            yield b"event: end\ndata: {}\n\n"
            return
        if anyio.current_time() > ends:
            return
        await anyio.sleep(LOOK_EVERY_S)
        if await call.request.is_disconnected():
            return
        view = await run_in_threadpool(call.services.financing.decision, call.tenants, call.id)


def _event(step: TransitionShown) -> bytes:
    return f"id: {step.number}\nevent: transition\ndata: {step.model_dump_json()}\n\n".encode()


_TAG: Final[dict[str, Any]] = {"tag": "decisions"}
ENDPOINTS: Final = (
    Endpoint(
        method="POST",
        path="/v1/decisions",
        scope="decisions:write",
        summary="Decide on an application for financing",
        handler=take,
        body=DecisionRequest,
        answer=DecisionAnswer,
        status=201,
        once=True,
        problems=("invalid-features", "score-withheld", "no-policy-answer"),
        **_TAG,
    ),
    Endpoint(
        method="GET",
        path="/v1/decisions",
        scope="decisions:read",
        summary="Decisions, newest first",
        handler=read_page,
        query=DecisionsQuery,
        answer=DecisionPage,
        **_TAG,
    ),
    Endpoint(
        method="GET",
        path="/v1/decisions/{id}",
        scope="decisions:read",
        summary="A decision, its steps, and what is paid out under it",
        handler=read,
        answer=DecisionView,
        **_TAG,
    ),
    Endpoint(
        method="GET",
        path="/v1/decisions/{id}/explanation",
        scope="decisions:read",
        summary="A decision in words, by the tables that made it",
        handler=explain,
        answer=Explanation,
        **_TAG,
    ),
    Endpoint(
        method="GET",
        path="/v1/decisions/{id}/proof",
        scope="decisions:read",
        summary="Proof that the ledger holds it; tallystick ledger verify checks it offline",
        handler=prove,
        **_TAG,
    ),
    Endpoint(
        method="GET",
        path="/v1/decisions/{id}/events",
        scope="decisions:read",
        summary="Its steps as they happen: server-sent events, for at most five minutes",
        handler=follow,
        media_type="text/event-stream",
        **_TAG,
    ),
    Endpoint(
        method="POST",
        path="/v1/decisions/{id}/disbursements",
        scope="decisions:write",
        summary="Pay out under an approved decision",
        handler=disburse,
        body=DisbursementRequest,
        answer=DisbursementAnswer,
        once=True,
        problems=("conflict", "no-policy-answer"),
        **_TAG,
    ),
)

"""Whether the process lives, and whether it can do its work: two questions, for two kinds of watchers."""

from __future__ import annotations

from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from coordinator.api.endpoint import EVERYBODY, Call, Endpoint
from coordinator.api.problems import ProblemError
from coordinator.api.services import Services
from policies.errors import UserError


async def live(_call: Call[Services]) -> Response:
    """The process answers; nothing else is looked at, so that a slow database does not get it killed."""
    return JSONResponse({"status": "ok"})


async def ready(call: Call[Services]) -> Response:
    """The database answers, the policy is one, tokens can be signed."""
    try:
        await run_in_threadpool(call.services.check)
    except UserError as problem:
        raise ProblemError("unavailable", str(problem), headers={"Retry-After": "5"}) from None
    return JSONResponse({"status": "ready"})


ENDPOINTS: Final = (
    Endpoint(
        method="GET", path="/healthz", scope=EVERYBODY, tag="service", summary="Is the process alive", handler=live
    ),
    Endpoint(
        method="GET",
        path="/readyz",
        scope=EVERYBODY,
        tag="service",
        summary="Can it do its work now",
        handler=ready,
        problems=("unavailable",),
    ),
)

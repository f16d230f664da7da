"""The financing API, put together: endpoints, who may call them, and what they work with."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from coordinator.api.edge import MAX_IN_FLIGHT, Edge
from coordinator.api.endpoint import JSON, Admission, Endpoint, answer
from coordinator.api.endpoints import decisions, events, health, ledger, offers, reviews, scores, tokens
from coordinator.api.openapi import description
from coordinator.api.problems import install_problem_handlers
from coordinator.api.services import Services
from coordinator.decisions.store import DecisionStore
from coordinator.decisions.writes import DecisionWrites
from coordinator.identity.authenticator import Authenticator
from coordinator.identity.principal import Principal
from models.artefact import Model

_ABOUT: Final = (
    "Financing decisions of a consortium: order, receivable and warehouse-receipt finance. Amounts and rates are"
    " decimal numbers in quotes. Refusals are problem documents (RFC 9457). Every decision has an entry in an"
    " append-only ledger, and a proof of it."
)
DESCRIPTION_PATH: Final = "/v1/openapi.json"
ALWAYS: Final = (
    *tokens.ENDPOINTS,
    *decisions.ENDPOINTS,
    *events.ENDPOINTS,
    *offers.ENDPOINTS,
    *reviews.ENDPOINTS,
    *ledger.ENDPOINTS,
    *health.ENDPOINTS,
)
"""Served in either mode; scores come with a released model."""


def endpoints_of(model: Model | None) -> tuple[Endpoint, ...]:
    """Everything that is served.

    Args:
        model: The released model, in released mode.
    """
    return ALWAYS if model is None else (*ALWAYS, *scores.endpoints_for(model))


def create_platform(
    endpoints: Sequence[Endpoint],
    services: Services,
    admission: Admission,
    *,
    close: Callable[[], Awaitable[None]],
    max_in_flight: int = MAX_IN_FLIGHT,
) -> ASGIApp:
    """Build the application.

    Args:
        endpoints: Of `endpoints_of`.
        services: What they work with.
        admission: Who may call.
        close: Called when the server has answered what it accepted.
        max_in_flight: Requests that may be under way.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await close()

    app = FastAPI(
        title="Tallystick financing API",
        version="1",
        openapi_url=None,  # the description is made from the endpoints, below
        docs_url=None,  # these pages would fetch scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    document = json.dumps(description(endpoints, title=app.title, version=app.version, about=_ABOUT)).encode()

    async def describe(_request: Request) -> Response:
        return Response(document, media_type=JSON)

    app.add_route(DESCRIPTION_PATH, describe, methods=["GET"])
    install_problem_handlers(app)
    by_path: dict[str, dict[str, Endpoint]] = {}
    for endpoint in endpoints:
        by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    for path, methods in by_path.items():
        app.add_route(path, _route(methods, services, admission), methods=list(methods), include_in_schema=False)
    return Edge(app, max_in_flight=max_in_flight)


def admission_of(authenticator: Authenticator, store: DecisionStore) -> Admission:
    """Who may call, by the clients folder; a tenant that calls for the first time is written down."""
    known: set[str] = set()

    async def welcome(principal: Principal) -> None:
        if principal.tenant not in known:

            def write(writes: DecisionWrites) -> None:
                writes.add_tenant(principal.tenant, principal.tenant)

            await store.commit(write)
            known.add(principal.tenant)

    return Admission(authenticator.authenticate, authenticator.authorise, authenticator.take, welcome)


def _route(
    methods: dict[str, Endpoint], services: Services, admission: Admission
) -> Callable[[Request], Awaitable[Response]]:
    async def route(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await answer(methods[method], admission, services, request)

    return route

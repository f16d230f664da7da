"""Events: what clients report. A settled payment brings a pre-approved offer by itself."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from coordinator.api.endpoint import Call, Endpoint, kept
from coordinator.api.services import Services
from coordinator.financing.answers import EventAnswer
from coordinator.financing.requests import EVENT_REQUEST


async def take_in(call: Call[Services]) -> Response:
    """Take in what happened."""
    principal = call.principal
    return kept(
        await call.services.financing.event(
            principal.tenant, principal.client_id, call.body, key=call.key, request_hash=call.request_hash
        )
    )


ENDPOINTS: Final = (
    Endpoint(
        method="POST",
        path="/v1/events",
        scope="events:write",
        tag="events",
        summary="Report a settled payment, a shipment, refunds, an exchange rate",
        handler=take_in,
        body=EVENT_REQUEST,
        answer=EventAnswer,
        status=201,
        once=True,
        problems=("conflict", "invalid-features", "score-withheld", "no-policy-answer"),
    ),
)

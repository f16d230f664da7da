"""Offers: list, read, accept."""

from __future__ import annotations

from typing import Final

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from coordinator.api.endpoint import Call, Endpoint, kept, shown
from coordinator.api.pages import OffersQuery, cursor_of
from coordinator.api.services import Services
from coordinator.financing.answers import OfferAnswer
from policies.closed_model import ClosedModel


class OfferPage(ClosedModel):
    """Some offers, newest first."""

    items: tuple[OfferAnswer, ...]
    next: str | None = Field(description="Cursor of the next page; null at the end")


async def read_page(call: Call[Services]) -> Response:
    """A page of offers."""
    query: OffersQuery = call.query

    def page() -> OfferPage:
        items, before = call.services.financing.offers(
            call.tenants,
            applicant=query.applicant,
            open_only=query.open_only,
            before=query.before,
            limit=query.limit,
        )
        return OfferPage(items=items, next=None if before is None else cursor_of(before))

    return shown(await run_in_threadpool(page))


async def read(call: Call[Services]) -> Response:
    """One offer."""
    return shown(await run_in_threadpool(call.services.financing.offer, call.tenants, call.id))


async def accept(call: Call[Services]) -> Response:
    """Accept an open offer."""
    principal = call.principal
    return kept(
        await call.services.financing.accept_offer(
            principal.tenant, principal.client_id, call.id, key=call.key, request_hash=call.request_hash
        )
    )


ENDPOINTS: Final = (
    Endpoint(
        method="GET",
        path="/v1/offers",
        scope="offers:read",
        tag="offers",
        summary="Offers, newest first",
        handler=read_page,
        query=OffersQuery,
        answer=OfferPage,
    ),
    Endpoint(
        method="GET",
        path="/v1/offers/{id}",
        scope="offers:read",
        tag="offers",
        summary="An offer",
        handler=read,
        answer=OfferAnswer,
    ),
    Endpoint(
        method="POST",
        path="/v1/offers/{id}/acceptance",
        scope="offers:write",
        tag="offers",
        summary="Accept an open offer",
        handler=accept,
        answer=OfferAnswer,
        once=True,
        problems=("conflict", "no-policy-answer"),
    ),
)

"""Two-person reviews: the maker proposes, the checker, who is somebody else, confirms."""

from __future__ import annotations

from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from coordinator.api.endpoint import Call, Endpoint, kept, shown
from coordinator.api.pages import ReviewsQuery
from coordinator.api.services import Services
from coordinator.financing.answers import ReviewAnswer
from coordinator.financing.requests import ReviewConfirmation, ReviewProposal
from policies.closed_model import ClosedModel


class ReviewList(ClosedModel):
    """Reviews, oldest first."""

    items: tuple[ReviewAnswer, ...]


async def read_all(call: Call[Services]) -> Response:
    """Reviews that wait, or those of a decision."""
    query: ReviewsQuery = call.query

    def found() -> ReviewList:
        items = call.services.financing.reviews(call.tenants, decision_id=query.decision, unfinished=query.unfinished)
        return ReviewList(items=items)

    return shown(await run_in_threadpool(found))


async def propose(call: Call[Services]) -> Response:
    """The maker's verdict."""
    principal = call.principal
    return kept(
        await call.services.financing.propose(
            principal.tenant, principal.client_id, call.id, call.body, key=call.key, request_hash=call.request_hash
        )
    )


async def confirm(call: Call[Services]) -> Response:
    """The checker's verdict."""
    principal = call.principal
    return kept(
        await call.services.financing.confirm(
            principal.tenant, principal.client_id, call.id, call.body, key=call.key, request_hash=call.request_hash
        )
    )


ENDPOINTS: Final = (
    Endpoint(
        method="GET",
        path="/v1/reviews",
        scope="decisions:read",
        tag="reviews",
        summary="Two-person reviews, oldest first",
        handler=read_all,
        query=ReviewsQuery,
        answer=ReviewList,
    ),
    Endpoint(
        method="POST",
        path="/v1/reviews/{id}/proposal",
        scope="reviews:write",
        tag="reviews",
        summary="The first person's verdict",
        handler=propose,
        body=ReviewProposal,
        answer=ReviewAnswer,
        once=True,
        problems=("conflict",),
    ),
    Endpoint(
        method="POST",
        path="/v1/reviews/{id}/confirmation",
        scope="reviews:write",
        tag="reviews",
        summary="The second person's verdict, who is somebody else",
        handler=confirm,
        body=ReviewConfirmation,
        answer=ReviewAnswer,
        once=True,
        problems=("conflict",),
    ),
)

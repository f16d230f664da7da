"""The ledger's newest checkpoint, as a C2SP signed note."""

from __future__ import annotations

from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from coordinator.api.endpoint import Call, Endpoint
from coordinator.api.services import Services


async def checkpoint(call: Call[Services]) -> Response:
    """The newest checkpoint with its signatures."""

    def newest() -> str:
        return call.services.checkpointer.newest().note.encode()

    return Response(await run_in_threadpool(newest), media_type="text/plain")


ENDPOINTS: Final = (
    Endpoint(
        method="GET",
        path="/v1/ledger/checkpoint",
        scope="ledger:read",
        tag="ledger",
        summary="The ledger's newest signed checkpoint",
        handler=checkpoint,
        media_type="text/plain",
    ),
)

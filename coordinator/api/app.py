"""The application: one released model behind `POST /v1/scores` and `GET /healthz`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from coordinator.api.problems import install_problem_handlers
from coordinator.api.scores import scores_router
from models.artefact import Model


class Health(BaseModel):
    """What a load balancer, and a person, want to know."""

    model_config = ConfigDict(frozen=True)

    status: str = "ok"
    task: str
    model_version: Annotated[str, Field(description="SHA-256 of the model artefact")]


def create_app(load_model: Callable[[], Model]) -> FastAPI:
    """Build the application.

    Args:
        load_model: Called once, now: a model that is absent or changed stops the start, not the first
        request.

    Raises:
        UserError: Whatever `load_model` says.
    """
    model = load_model()
    health = Health(task=model.task, model_version=model.version)
    app = FastAPI(
        title="Tallystick scoring API",
        version="1",
        description=f"Scores by the released model of task {model.task!r}, version {model.version[:12]}. "
        "The caller sends the features to the platform: the promise about rows is about members' data.",
        openapi_url="/v1/openapi.json",
        docs_url=None,  # these pages would fetch scripts from elsewhere
        redoc_url=None,
    )
    install_problem_handlers(app)

    @app.get("/healthz", summary="Is the service up, and with which model", tags=["service"])
    async def healthz() -> Health:
        """Answers as long as the model is loaded."""
        return health

    app.include_router(scores_router(model))
    return app

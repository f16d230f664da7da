"""`POST /v1/scores`: one applicant's features to PD, points, contributions and reasons."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field

from coordinator.api.applicant import example_applicants, features_schema, parse_applicant
from coordinator.api.problems import MEDIA_TYPE, ProblemError, problem_schema
from coordinator.api.strict_json import read_json
from models.artefact import Model
from models.scoring import ScoringInputError, score_frame

_REFUSALS = {
    400: "The body is not JSON",
    413: "The body is longer than 64 KiB",
    415: "The body is not declared as JSON",
    422: "A feature is unknown, missing or outside its range",
}


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Contribution(_Answer):
    """What one feature adds, against the average of the population the model was trained on."""

    feature: str
    log_odds: Annotated[float, Field(description="Added to the log-odds of default; positive is riskier")]
    score_points: Annotated[float, Field(description="Added to the score; positive is safer")]


class RankedReason(_Answer):
    """A principal reason for a low score."""

    rank: Annotated[int, Field(ge=1)]
    reason_code: str
    features: tuple[str, ...]
    points_lost: Annotated[float, Field(gt=0)]


class Score(_Answer):
    """The answer: `score_points` = `base_points` + the sum of all contributions' points."""

    model_version: Annotated[str, Field(description="SHA-256 of the model artefact")]
    task: str
    pd: Annotated[float, Field(ge=0, le=1, description="Probability of default over the task's horizon")]
    score_points: float
    base_points: float
    contributions: tuple[Contribution, ...]
    reasons: Annotated[tuple[RankedReason, ...], Field(description="Most costly first; empty if nothing costs points")]


def score_applicant(model: Model, document: Any) -> Score:
    """Score one request body.

    Args:
        model: The served model.
        document: Strictly parsed JSON.

    Raises:
        ProblemError: The body is not an applicant that the model can score.
    """
    applicant = parse_applicant(document, model.features)
    try:
        scores = score_frame(model, applicant.columns())
    except ScoringInputError as error:
        raise ProblemError("invalid-features", f"{error}.") from None
    return Score(
        model_version=model.version,
        task=model.task,
        pd=float(scores.pd[0]),
        score_points=float(scores.points[0]),
        base_points=float(scores.base_points[0]),
        contributions=tuple(
            Contribution(
                feature=name,
                log_odds=float(scores.contributions[0, k]),
                score_points=float(scores.contribution_points[0, k]),
            )
            for k, name in enumerate(scores.feature_names)
        ),
        reasons=tuple(
            RankedReason(
                rank=rank, reason_code=reason.reason_code, features=reason.features, points_lost=reason.points_lost
            )
            for rank, reason in enumerate(scores.reasons(0), start=1)
        ),
    )


def scores_router(model: Model) -> APIRouter:
    """The route, with the model's own feature contract in its OpenAPI description."""
    router = APIRouter(tags=["scores"])
    body = {"schema": features_schema(model), "examples": example_applicants(model)}
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "content": {MEDIA_TYPE: {"schema": problem_schema()}}}
        for status, text in _REFUSALS.items()
    }

    @router.post(
        "/v1/scores",
        summary="Score one applicant",
        responses=refusals,
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": body}}},
    )
    async def post_scores(response: Response, document: Annotated[Any, Depends(read_json)]) -> Score:
        """The probability of default, the score, what each feature adds to it, and the principal reasons."""
        response.headers["Cache-Control"] = "no-store"  # an answer about a person
        return score_applicant(model, document)

    return router

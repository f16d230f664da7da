"""Scores of a released model, in this process."""

from __future__ import annotations

from decimal import Decimal

from coordinator.decisions.records import Mode
from coordinator.financing.checks import Matched, matched_among
from coordinator.financing.errors import ApplicantRefused
from coordinator.financing.requests import Applicant, DecisionRequest
from coordinator.financing.score_source import Scored
from models.artefact import Model
from models.scoring import ScoringInputError
from models.scoring_row import RowScorer
from policies.lending.reasons import MAX_SCORE_REASONS
from policies.lending.types import ReasonVote, Risk, pd_12m_of

_HUNDREDTH = Decimal("0.01")


class ReleasedScores:
    """A model that the platform holds; requests bring the features.

    Args:
        model: The model; its version is on every decision.
        horizon_months: Of the model's task.
    """

    def __init__(self, model: Model, *, horizon_months: int = 12) -> None:
        self._scorer = RowScorer(model)
        self._version = model.version
        self._horizon_months = horizon_months

    @property
    def mode(self) -> Mode:
        """Released."""
        return "released"

    @property
    def model_version(self) -> str:
        """SHA-256 of the artefact."""
        return self._version

    async def risk(self, applicant: Applicant) -> Scored:
        """Score the applicant's features.

        Raises:
            ApplicantRefused: No features, or some that the model cannot take.
        """
        if applicant.features is None:
            raise ApplicantRefused(
                "Expected the applicant's features, since this platform holds the model, found an entity and its"
                " grant; send features."
            )
        try:
            scores = self._scorer.score(applicant.features)
        except ScoringInputError as problem:
            raise ApplicantRefused(f"The applicant's {problem}.") from None
        return Scored(
            Risk(
                pd_12m=pd_12m_of(float(scores.pd[0]), self._horizon_months),
                points=Decimal(repr(float(scores.points[0]))).quantize(_HUNDREDTH),
                reason_votes=tuple(
                    ReasonVote(code=reason.reason_code) for reason in scores.reasons(0, MAX_SCORE_REASONS)
                ),
                model_version=self._version,
            )
        )

    async def matched(self, request: DecisionRequest) -> Matched:
        """What the documents themselves say."""
        return Matched(matched_among(request.application()))

"""Where the risk of an applicant comes from: the one question that both serving modes answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from coordinator.decisions.records import Mode
from coordinator.financing.checks import Matched
from coordinator.financing.requests import Applicant, DecisionRequest
from policies.lending.types import Risk


@dataclass(frozen=True)
class Scored:
    """A risk, and how it was come by.

    Attributes:
        risk: What the policy takes.
        survivors: Members in the score's sum, in federated mode.
        degraded: Whether a role was silent, or there is no score at all.
        missing: Why there is no score, in one sentence; None when there is one. `risk` is then an assumption, and
            the decision is never an approval.
    """

    risk: Risk
    survivors: tuple[str, ...] = ()
    degraded: bool = False
    missing: str | None = None


class ScoreSource(Protocol):
    """A released model in this process, or the members' gateway."""

    @property
    def mode(self) -> Mode:
        """Which of the two."""

    @property
    def model_version(self) -> str:
        """Whose scores these are."""

    async def risk(self, applicant: Applicant) -> Scored:
        """Score an applicant.

        Raises:
            ApplicantRefused: It cannot be scored as stated.
            ScoreWithheld: The members may not give it.
        """

    async def matched(self, request: DecisionRequest) -> Matched:
        """Whether order, invoice and transport document agree, and what is known of financing elsewhere."""

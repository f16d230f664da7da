"""Whole decisions as cases: what enters on a day, and what must come out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from policies.closed_json import IsoDate, parse_json_object
from policies.closed_model import HYPHENATED, ClosedModel, parse_model, read_bounded, shown_path
from policies.decision_tables.errors import PolicyRefused
from policies.lending.decide import decide
from policies.lending.money import Money, Share
from policies.lending.policy_set import PolicySet
from policies.lending.types import (
    Application,
    Approved,
    Checks,
    Code,
    Decision,
    Declined,
    Exposure,
    Referred,
    Risk,
    Terms,
    Text,
)

_HINT = "see the cases beside it"


class Expected(ClosedModel):
    """What a decision must say; what is left out is not compared."""

    outcome: Literal["approved", "referred", "declined"]
    limit: Money | None = None
    rate: Share | None = None
    margin: Share | None = None
    reserve: Money | None = None
    expected_loss: Money | None = None
    reasons: tuple[Code, ...] | None = None
    """Codes, in order: of the decline or referral, or of what held the limit of an approval down."""


class DecisionCase(ClosedModel):
    """One decision."""

    id: Annotated[str, Field(pattern=HYPHENATED)]
    description: Text
    on: IsoDate
    application: Application
    risk: Risk
    checks: Checks
    exposure: Exposure = Exposure()
    expected: Expected

    def decided(self, policy: PolicySet) -> Decision:
        """What a policy makes of it."""
        return decide(policy, self.application, self.risk, self.checks, self.exposure)


class DecisionCases(ClosedModel):
    """A file of them."""

    format: Literal["tallystick-decision-cases/1"]
    cases: Annotated[tuple[DecisionCase, ...], Field(min_length=1, max_length=1000)]


def read_cases(path: Path) -> tuple[DecisionCase, ...]:
    """The cases of a file.

    Raises:
        PolicyRefused: The file cannot be read or is not of this form.
    """
    return parse_cases(read_bounded(path, PolicyRefused), shown_path(path))


def parse_cases(content: bytes, where: str) -> tuple[DecisionCase, ...]:
    """The same from bytes; `where` starts the sentence."""
    return parse_model(
        DecisionCases, parse_json_object(content, where, PolicyRefused), where, PolicyRefused, _HINT
    ).cases


def differences(case: DecisionCase, decision: Decision) -> list[str]:
    """What a decision says otherwise than its case expects, one sentence each."""
    expected = case.expected
    found: dict[str, object] = {"outcome": decision.outcome.outcome, "reasons": _codes(decision)}
    terms = terms_of(decision)
    if terms is not None:
        found |= {"limit": terms.limit, "rate": terms.rate, "margin": terms.margin, "reserve": terms.reserve}
        found["expected_loss"] = terms.expected_loss.amount
    sentences = []
    for name in Expected.model_fields:
        value = getattr(expected, name)
        if value is not None and found.get(name) != value:
            sentences.append(f"case {case.id}: expected {name} {_shown(value)}, found {_shown(found.get(name))}.")
    return sentences


def terms_of(decision: Decision) -> Terms | None:
    """The terms of an approval, or those proposed to the reviewers."""
    match decision.outcome:
        case Approved(terms=terms):
            return terms
        case Referred(proposed=terms):
            return terms
        case Declined():
            return None


def _codes(decision: Decision) -> tuple[str, ...]:
    outcome = decision.outcome
    reasons = outcome.reductions if isinstance(outcome, Approved) else outcome.reasons
    return tuple(reason.code for reason in reasons)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return "nothing" if value is None else str(value)

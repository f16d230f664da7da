"""What enters a lending decision and what comes out of it: frozen, closed types.

They read and write JSON (`model_validate_json`, `model_dump_json`), with amounts and rates as text. Rates, shares and
probabilities are fractions: 0.05 is five per cent.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from policies.closed_json import IsoDate
from policies.closed_model import HYPHENATED, ONE_LINE, SNAKE_CASE, UPPER_CASE, ClosedModel
from policies.lending.money import Exact, Money, Share

Product = Literal["order", "receivable", "warehouse_receipt"]
Rating = Literal["low", "medium", "high"]
Verdict = Literal["clear", "referred", "blocked"]
ThreeWayMatch = Literal["matched", "not_required", "pending", "mismatched"]
DoubleFinancing = Literal["clear", "unchecked", "suspected", "confirmed"]

Id = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]
Code = Annotated[str, Field(pattern=UPPER_CASE)]
Slug = Annotated[str, Field(pattern=HYPHENATED)]
Name = Annotated[str, Field(pattern=SNAKE_CASE)]
Text = Annotated[str, Field(min_length=1, max_length=400, pattern=ONE_LINE)]
TenorDays = Annotated[int, Field(ge=1, le=3650)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

_MAX_DATE = dt.date(9999, 1, 1)


class Evidence(ClosedModel):
    """One document behind an application, by reference; the platform holds the document."""

    kind: Name
    """As the table `product` names it: purchase_order, receivable, stock_appraisal, ..."""
    reference: Id
    value: Money | None = None
    """What the document is about in money: the order's value, the receivable, the appraised stock."""


class Application(ClosedModel):
    """What an applicant asks for."""

    applicant_id: Id
    product: Product
    amount: Money
    tenor_days: TenorDays
    industry: Name
    evidence: Annotated[tuple[Evidence, ...], Field(max_length=200)] = ()

    @model_validator(mode="after")
    def _each_document_once(self) -> Self:
        named = [(one.kind, one.reference) for one in self.evidence]
        if len(named) != len(set(named)):
            raise ValueError("expected every document once, found one twice; its value would count twice")
        if not self.amount.amount:
            raise ValueError("expected an amount above zero, found 0; state what is asked for")
        return self


class ReasonVote(ClosedModel):
    """How often a score term was among the principal ones; one member a vote, or one in a released model."""

    code: Code
    """Reason code of the agreement."""
    votes: Annotated[int, Field(ge=1, le=1_000_000)] = 1


class Risk(ClosedModel):
    """What the score says."""

    pd_12m: Share
    """Probability of default within twelve months; see `pd_12m_of` for other horizons."""
    points: Exact | None = None
    """Score points, recorded and not decided on: they are the same statement as the PD."""
    reason_votes: Annotated[tuple[ReasonVote, ...], Field(max_length=2000)] = ()
    """Score terms that speak against the applicant, the strongest first."""
    model_version: Annotated[str, Field(min_length=1, max_length=128, pattern=ONE_LINE)]
    degraded_roles: Annotated[tuple[Slug, ...], Field(max_length=100)] = ()
    """Roles that did not answer, sorted: their part of the score is missing."""

    @model_validator(mode="after")
    def _sorted_once(self) -> Self:
        if list(self.degraded_roles) != sorted(set(self.degraded_roles)):
            raise ValueError("expected degraded_roles sorted and each once; sort them")
        codes = [vote.code for vote in self.reason_votes]
        if len(codes) != len(set(codes)):
            raise ValueError("expected every reason code once among the votes; add the votes of one code up")
        return self


class Checks(ClosedModel):
    """Results of the checks before a decision; made elsewhere, decided on here."""

    screening: Verdict
    screening_codes: tuple[Code, ...] = ()
    """Why, as `policies.screening` says it."""
    three_way_match: ThreeWayMatch
    """Whether order, invoice and transport document agree."""
    double_financing: DoubleFinancing
    """Whether the same document is financed elsewhere."""
    customer_risk: Rating


class Exposure(ClosedModel):
    """What the applicant owes already, over all products."""

    outstanding: Annotated[tuple[Money, ...], Field(max_length=1000)] = ()


class Reason(ClosedModel):
    """Why an answer is not simply yes."""

    code: Code
    text: Text
    score_codes: tuple[Code, ...] = ()
    """Reason codes of the agreement that this reason stands for; empty when it is not about the score."""


class Condition(ClosedModel):
    """What must hold before or while money is out."""

    code: Code
    text: Text


class WatchItem(ClosedModel):
    """What the industry's profile says to look at while money is out."""

    item: Name
    text: Text


class ExpectedLoss(ClosedModel):
    """PD x LGD x EAD."""

    pd_12m: Share
    """After what the table `degraded` adds for missing roles."""
    lgd: Share
    ead: Money
    """The policy's factor times the limit: a limit counts as drawn."""
    amount: Money
    """Within twelve months, rounded up to the minor unit."""
    rate: Annotated[Exact, Field(ge=0, le=2)]
    """A year and a unit of the limit."""


class Terms(ClosedModel):
    """What is lent, and at what price."""

    limit: Money
    rate: Share
    """A year; the base rate plus the margin."""
    base_rate: Share
    margin: Share
    reserve: Money
    """Held against the limit, as if it were drawn."""
    tenor_days: TenorDays
    expected_loss: ExpectedLoss

    @model_validator(mode="after")
    def _add_up(self) -> Self:
        if self.base_rate + self.margin != self.rate:
            raise ValueError("expected rate = base_rate + margin; correct one of them")
        if not self.limit.amount:
            raise ValueError("expected a limit above zero; a limit of nothing is a decline")
        return self


class Approved(ClosedModel):
    """Yes, on these terms."""

    outcome: Literal["approved"] = "approved"
    terms: Terms
    conditions: tuple[Condition, ...] = ()
    watch: tuple[WatchItem, ...] = ()
    reductions: tuple[Reason, ...] = ()
    """Why the limit is below what was asked for; empty when it is not."""


class Referred(ClosedModel):
    """Two people decide."""

    outcome: Literal["referred"] = "referred"
    reasons: Annotated[tuple[Reason, ...], Field(min_length=1)]
    refer_to: Literal["two_person_review"] = "two_person_review"
    proposed: Terms
    """What they may grant at most, and at what price at least."""
    conditions: tuple[Condition, ...] = ()
    watch: tuple[WatchItem, ...] = ()
    reductions: tuple[Reason, ...] = ()


class Declined(ClosedModel):
    """No, and why."""

    outcome: Literal["declined"] = "declined"
    reasons: Annotated[tuple[Reason, ...], Field(min_length=1)]


Outcome = Annotated[Approved | Referred | Declined, Field(discriminator="outcome")]


class TraceRow(ClosedModel):
    """One row that a table answered with, as it stood then."""

    table: Name
    version: str
    row: str
    description: str
    facts: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]


class TableVersion(ClosedModel):
    """Which version of a table took part, and the SHA-256 of its file."""

    table: Name
    version: str
    sha256: Sha256


class Decision(ClosedModel):
    """An outcome with everything that it follows from."""

    outcome: Outcome
    decided_for: IsoDate
    """The day whose policy decided."""
    product: Product
    policy_sha256: Sha256
    """Of the set of versions."""
    versions: tuple[TableVersion, ...]
    """The tables in force on that day, whether they took part or not."""
    inputs_sha256: Sha256
    """Of everything that entered, as canonical JSON; not for public places: short inputs can be guessed from it."""
    trace: tuple[TraceRow, ...]


class Settlement(ClosedModel):
    """A payment to the seller that the payment institution reports as settled."""

    settlement_id: Id
    applicant_id: Id
    amount: Money
    industry: Name


class Offer(ClosedModel):
    """A pre-approved order financing that a settled payment triggered."""

    settlement_id: Id
    applicant_id: Id
    terms: Terms
    conditions: tuple[Condition, ...]
    made_for: IsoDate
    valid_until: IsoDate
    """Last day on which it can be accepted."""
    decision: Decision

    @model_validator(mode="after")
    def _is_approved(self) -> Self:
        if not isinstance(self.decision.outcome, Approved) or self.decision.outcome.terms != self.terms:
            raise ValueError("expected an offer on the terms of an approved decision")
        if not self.made_for <= self.valid_until < _MAX_DATE:
            raise ValueError("expected an offer that is valid on the day it is made")
        return self

    def open_on(self, date: dt.date) -> bool:
        """Whether it can be accepted on that day."""
        return self.made_for <= date <= self.valid_until


class NoOffer(ClosedModel):
    """Why a settled payment triggers nothing."""

    reasons: Annotated[tuple[Reason, ...], Field(min_length=1)]


def pd_12m_of(pd: float, horizon_months: int) -> Decimal:
    """A model's PD as a PD within twelve months, under a constant hazard, rounded up to eight places.

    Args:
        pd: Probability of default within the horizon, in [0, 1].
        horizon_months: Horizon of the agreement's task.

    Returns:
        1 - (1 - pd)^(12 / horizon_months).

    Raises:
        ValueError: Not a probability, or no horizon.
    """
    if not 0 <= pd <= 1 or horizon_months < 1:
        raise ValueError("expected a probability in [0, 1] and a horizon of at least one month")
    survival = Decimal(1) - Decimal(repr(float(pd)))
    if horizon_months != 12 and survival:
        survival = survival ** (Decimal(12) / Decimal(horizon_months))
    step = Decimal("0.00000001")
    up = (Decimal(1) - survival).quantize(step, rounding="ROUND_CEILING")
    return min(max(up, Decimal(0)), Decimal(1))

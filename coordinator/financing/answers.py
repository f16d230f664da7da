"""What the financing API answers: frozen types for the API description, and for clients that are written from it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from coordinator.financing.statuses import Status
from policies.closed_model import ClosedModel
from policies.lending.money import Exact, Money
from policies.lending.people import Moment
from policies.lending.types import Checks, Condition, Outcome, Product, Reason, Terms

Mode = Literal["released", "federated"]


class ScoreShown(ClosedModel):
    """The score that a decision rests on."""

    pd_12m: Exact
    """Probability of default within twelve months."""
    points: Exact | None
    model_version: str
    degraded_roles: tuple[str, ...]
    """Roles that did not answer."""
    missing: str | None
    """Why there is no score, if there is none; the decision is then never an approval."""


class PolicyShown(ClosedModel):
    """The policy that decided."""

    sha256: str
    decided_for: str
    versions: dict[str, str]
    """Table to its version."""


class LedgerShown(ClosedModel):
    """Where the ledger says so."""

    entry: int


class TransitionShown(ClosedModel):
    """One step of a decision: who, when, why."""

    number: int
    before: Status
    after: Status
    actor: str
    why: str
    at: Moment
    ledger: LedgerShown


class DecisionAnswer(ClosedModel):
    """A decision as it was taken, and where it stands."""

    id: str
    status: Status
    outcome: Outcome
    applicant: str
    product: Product
    requested: Money
    tenor_days: int
    score: ScoreShown
    checks: Checks
    policy: PolicyShown
    mode: Mode
    decided_at: Moment
    review: str | None
    """The review that was opened, if the decision was referred."""
    ledger: LedgerShown


class FacilityShown(ClosedModel):
    """Money that may go out, or is out."""

    limit: Money
    disbursed: Money
    repaid: Money
    watch: Literal["active", "warned", "frozen"]
    available: Money


class DecisionView(DecisionAnswer):
    """A decision with what became of it."""

    transitions: tuple[TransitionShown, ...]
    facility: FacilityShown | None


class Explanation(ClosedModel):
    """A decision in words, by the tables that made it."""

    id: str
    policy_sha256: str
    lines: tuple[str, ...]
    replayed: bool
    """The archived tables were asked again and came to the same decision."""


class OfferAnswer(ClosedModel):
    """A pre-approved offer."""

    id: str
    status: Literal["open", "accepted", "expired", "withdrawn"]
    applicant: str
    product: Product
    terms: Terms
    conditions: tuple[Condition, ...]
    decision: str
    event: str | None
    made_at: Moment
    expires_at: Moment
    ledger: LedgerShown


class ObservedShown(ClosedModel):
    """What the watch made of a signal."""

    action: Literal["none", "warn", "freeze"]
    code: str
    text: str
    status: Status
    """Where the decision stands now."""


class EventAnswer(ClosedModel):
    """What an event led to."""

    id: str
    source_id: str
    kind: str
    offer: OfferAnswer | None = None
    no_offer: tuple[Reason, ...] = ()
    """Why a settled payment triggered nothing."""
    observed: ObservedShown | None = None
    repaid: Money | None = None
    repeated: bool = False
    """It was reported before: nothing was done again."""


class ReviewAnswer(ClosedModel):
    """A two-person review."""

    id: str
    decision: str
    status: Literal["open", "proposed", "closed"]
    about: Literal["referral", "freeze"]
    why: str
    opened_at: Moment
    maker: str | None
    maker_verdict: Literal["approve", "decline"] | None
    maker_why: str | None
    checker: str | None
    checker_verdict: Literal["approve", "decline"] | None
    checker_why: str | None
    to_confirm: Annotated[str | None, Field(description="SHA-256 that a confirmation names")]
    decision_status: Status


class DisbursementAnswer(ClosedModel):
    """What went out, and what is left."""

    decision: str
    status: Status
    facility: FacilityShown

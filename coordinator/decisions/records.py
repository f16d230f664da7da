"""What the store takes and gives back: frozen records, each with the bytes that its ledger entry is about.

`canonical()` is every field that never changes, as JSON with sorted keys: the commitment in the ledger covers all of
it, so a changed column is found as surely as a changed document.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Generic, Literal, TypeVar

from coordinator.database.errors import RecordRefused
from coordinator.ledger.entries import time_text

Outcome = Literal["approved", "referred", "declined"]
Mode = Literal["released", "federated"]
OfferStatus = Literal["open", "accepted", "expired", "withdrawn"]
Row = TypeVar("Row")
Verdict = Literal["approve", "decline"]

_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_MAX_DOCUMENT: Final = 1 << 20


def canonical_json(value: object) -> bytes:
    """JSON, keys sorted, no white space, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _exact(value: Decimal | None) -> str | None:
    return None if value is None else format(value, "f")


def _check_money(what: str, amount: Decimal, currency: str, tenor_days: int) -> None:
    if not amount.is_finite() or amount < 0 or len(amount.as_tuple().digits) > 38:
        raise RecordRefused(f"{what}: expected an amount of at least 0 and at most 38 digits, found {amount!s:.50}.")
    if not _CURRENCY.fullmatch(currency):
        raise RecordRefused(f"{what}: expected an ISO 4217 code such as CNY, found {currency[:10]!r}.")
    if tenor_days < 0:
        raise RecordRefused(f"{what}: expected a tenor of at least 0 days, found {tenor_days}.")


@dataclass(frozen=True, kw_only=True)
class DecisionRecord:
    """A decision as the policy took it.

    Attributes:
        id: Of `DecisionStore.new_id("dec")`.
        tenant: Whose it is.
        applicant: Token of the applicant, never a name.
        product: As the lending policy names it.
        amount: Requested, in units of `currency`.
        currency: ISO 4217.
        tenor_days: Requested.
        outcome: Approved, referred or declined.
        reasons: Reason codes in order of weight; a decline has at least one.
        rate: Yearly rate as a fraction, where one was offered.
        policy_versions: Table of the lending policy to its version.
        model_version: Of the score it rests on.
        mode: Whether the platform held the model or the members' nodes answered.
        inputs_hash: SHA-256 over what the decision was taken on, 32 bytes.
        document: The whole decision as canonical JSON text.
        initial_status: Transitions lead on from there.
        created_at: When it was taken.
    """

    id: str
    tenant: str
    applicant: str
    product: str
    amount: Decimal
    currency: str
    tenor_days: int
    outcome: Outcome
    reasons: tuple[str, ...]
    rate: Decimal | None
    policy_versions: Mapping[str, str]
    model_version: str
    mode: Mode
    inputs_hash: bytes
    document: str
    initial_status: str
    created_at: dt.datetime

    def __post_init__(self) -> None:
        _check_money("The decision", self.amount, self.currency, self.tenor_days)
        if self.outcome == "declined" and not self.reasons:
            raise RecordRefused("The decision: expected a decline with its reasons, found none; state them.")
        if len(self.inputs_hash) != 32:
            raise RecordRefused(f"The decision: expected an inputs hash of 32 bytes, found {len(self.inputs_hash)}.")
        if len(self.document) > _MAX_DOCUMENT:
            raise RecordRefused(f"The decision: expected at most {_MAX_DOCUMENT} characters, found more.")

    def canonical(self) -> bytes:
        """Everything that never changes."""
        return canonical_json(
            {
                "amount": _exact(self.amount),
                "applicant": self.applicant,
                "created_at": time_text(self.created_at),
                "currency": self.currency,
                "document": self.document,
                "id": self.id,
                "initial_status": self.initial_status,
                "inputs_hash": self.inputs_hash.hex(),
                "mode": self.mode,
                "model_version": self.model_version,
                "outcome": self.outcome,
                "policy_versions": dict(self.policy_versions),
                "product": self.product,
                "rate": _exact(self.rate),
                "reasons": list(self.reasons),
                "tenant": self.tenant,
                "tenor_days": self.tenor_days,
            }
        )


@dataclass(frozen=True, kw_only=True)
class StoredDecision:
    """A decision as it is stored now.

    Attributes:
        record: As it was taken.
        status: Where it stands.
        transitions: How many there were.
        entry: Its position in the ledger.
        salt: Keys its hashes in the ledger: shown to whoever may see the decision, and to nobody else.
    """

    record: DecisionRecord
    status: str
    transitions: int
    entry: int
    salt: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Transition:
    """A change of a decision's status."""

    decision_id: str
    number: int
    from_status: str
    to_status: str
    actor: str
    why: str
    at: dt.datetime
    entry: int

    def canonical(self) -> bytes:
        """Who, when, why, between what."""
        return canonical_json(
            {
                "actor": self.actor,
                "at": time_text(self.at),
                "decision": self.decision_id,
                "from": self.from_status,
                "number": self.number,
                "to": self.to_status,
                "why": self.why,
            }
        )


@dataclass(frozen=True, kw_only=True)
class OfferRecord:
    """Financing offered under a decision; `event_id` names what triggered it, where that was an event."""

    id: str
    tenant: str
    applicant: str
    product: str
    amount: Decimal
    currency: str
    tenor_days: int
    rate: Decimal
    decision_id: str
    event_id: str | None
    document: str
    created_at: dt.datetime
    expires_at: dt.datetime

    def __post_init__(self) -> None:
        _check_money("The offer", self.amount, self.currency, self.tenor_days)

    def canonical(self) -> bytes:
        """Everything that never changes."""
        return canonical_json(
            {
                "amount": _exact(self.amount),
                "applicant": self.applicant,
                "created_at": time_text(self.created_at),
                "currency": self.currency,
                "decision": self.decision_id,
                "document": self.document,
                "event": self.event_id,
                "expires_at": time_text(self.expires_at),
                "id": self.id,
                "product": self.product,
                "rate": _exact(self.rate),
                "tenant": self.tenant,
                "tenor_days": self.tenor_days,
            }
        )


@dataclass(frozen=True, kw_only=True)
class StoredOffer:
    """An offer as it is stored now."""

    record: OfferRecord
    status: OfferStatus
    closed_at: dt.datetime | None
    entry: int


@dataclass(frozen=True, kw_only=True)
class InboundEvent:
    """Something that a client reports: a payment settled, a shipment, a refund, a rate.

    Attributes:
        source_id: The client's own id of it; the same id is the same event.
        document: As canonical JSON text.
    """

    id: str
    tenant: str
    source_id: str
    kind: str
    applicant: str | None
    decision_id: str | None
    document: str
    occurred_at: dt.datetime
    received_at: dt.datetime


@dataclass(frozen=True, kw_only=True)
class Response:
    """The answer to a request that had an Idempotency-Key."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    replayed: bool = False
    """Whether it was given before."""


@dataclass(frozen=True, kw_only=True)
class WebhookEndpoint:
    """Where a tenant wants to be told; `key_id` names the signing secret, which is kept elsewhere."""

    id: str
    tenant: str
    url: str
    key_id: str
    topics: tuple[str, ...]
    created_at: dt.datetime
    disabled_at: dt.datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A webhook to deliver; `payload` is sent and signed byte for byte."""

    id: str
    endpoint: WebhookEndpoint
    topic: str
    payload: str
    created_at: dt.datetime
    attempts: int
    next_attempt_at: dt.datetime | None
    delivered_at: dt.datetime | None
    last_status: int | None
    last_problem: str | None


@dataclass(frozen=True, kw_only=True)
class Review:
    """A two-person review. The maker proposes, the checker, who is somebody else, agrees or not."""

    id: str
    tenant: str
    decision_id: str
    why: str
    status: Literal["open", "proposed", "closed"]
    opened_at: dt.datetime
    maker: str | None = None
    maker_verdict: Verdict | None = None
    maker_why: str | None = None
    maker_at: dt.datetime | None = None
    checker: str | None = None
    checker_verdict: Verdict | None = None
    checker_why: str | None = None
    checker_at: dt.datetime | None = None


@dataclass(frozen=True)
class Page(Generic[Row]):
    """Some rows, newest first, and where the next page begins."""

    rows: tuple[Row, ...]
    next_before: int | None
    """Give it as `before` to get the next page; None at the end."""

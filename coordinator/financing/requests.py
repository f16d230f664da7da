"""What the financing API is asked: closed, frozen types, each with an example that the API description shows.

Amounts, rates and shares are decimal numbers in quotes. `model_validate_json` reads a body; what is wrong with it is
pydantic's `ValidationError`, which names the place.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, model_validator

from policies.closed_model import HEX_32_BYTES, ONE_LINE, ClosedModel
from policies.fingerprints import normalise
from policies.lending.money import CURRENCY, Exact, Money, Share
from policies.lending.people import Moment
from policies.lending.types import Application, Evidence, Id, Name, Product, TenorDays, Text
from policies.lending.watch import LateShipment, Rate, RateMove, RefundSpike
from policies.screening.names import MAX_NAME_CHARACTERS
from policies.screening.screen import Subject

MAX_REQUESTED = 10**12
"""Well below what an amount may be anywhere: sums and conversions of it stay in range."""
MAX_FEATURES = 2000
MAX_EVIDENCE = 200

Amount = Annotated[Exact, Field(gt=0, le=MAX_REQUESTED, decimal_places=4)]
Currency = Annotated[str, Field(pattern=CURRENCY)]
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
FeatureName = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=ONE_LINE)]
Token = Annotated[str, Field(pattern=HEX_32_BYTES)]
Base64 = Annotated[str, Field(min_length=4, max_length=1 << 17, pattern=r"^[A-Za-z0-9+/]+={0,2}$")]


def _example(example: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [example]})


_APPLICANT: dict[str, Any] = {
    "id": "seller-1042",
    "name": "Lantern Home Goods Ltd",
    "country": "CN",
    "history_months": 26,
    "features": {"utilization": 0.3, "age": 45, "income": 5400.0},
}


class Applicant(ClosedModel):
    """Who asks: with the features of a released model, or with the entity token and grant of a federated one."""

    model_config = _example(_APPLICANT)

    id: Id
    """The platform's own id; the name is screened and shown to reviewers, never in the ledger."""
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS, pattern=ONE_LINE)]
    country: Country
    history_months: Annotated[int, Field(ge=0, le=1200)] | None = None
    """Months of history on the platform; unknown counts as none."""
    prior_defaults: Annotated[int, Field(ge=0, le=1000)] = 0
    features: Annotated[dict[FeatureName, float | None], Field(max_length=MAX_FEATURES)] | None = None
    """Released mode: value per feature of the model; null where one is missing."""
    entity: Token | None = None
    """Federated mode: the entity's token, issued with the grant."""
    grant: Base64 | None = None
    """Federated mode: the signed data-use grant, base64."""

    @model_validator(mode="after")
    def _one_way_to_score(self) -> Self:
        federated = self.entity is not None and self.grant is not None
        if federated == (self.features is not None) or (self.entity is None) != (self.grant is None):
            raise ValueError("expected either features, or entity and grant together; give one of the two")
        return self

    @property
    def subject(self) -> Subject:
        """Who is screened."""
        return Subject(names=(self.name,), countries=(self.country,))


class EvidenceReference(Evidence):
    """A document behind an application; the platform holds it."""

    token: Token | None = None
    """Federated mode: the document's fingerprint, covered by the applicant's grant, so that the members match it."""


class DecisionRequest(ClosedModel):
    """`POST /v1/decisions`."""

    model_config = _example(
        {
            "applicant": _APPLICANT,
            "product": "order",
            "amount": "400000.00",
            "currency": "CNY",
            "tenor_days": 90,
            "industry": "home",
            "evidence": [
                {
                    "kind": "purchase_order",
                    "reference": "PO-2026-118",
                    "value": {"amount": "500000.00", "currency": "CNY"},
                }
            ],
        }
    )

    applicant: Applicant
    product: Product
    amount: Amount
    currency: Currency
    tenor_days: TenorDays
    industry: Name
    evidence: Annotated[tuple[EvidenceReference, ...], Field(max_length=MAX_EVIDENCE)] = ()

    @model_validator(mode="after")
    def _each_document_once(self) -> Self:
        written = {(one.kind, normalise(one.reference) or one.reference) for one in self.evidence}
        if len(written) != len(self.evidence):
            raise ValueError("expected every document once, found one twice; its value would count twice")
        return self

    def application(self) -> Application:
        """What the policy decides on."""
        return Application(
            applicant_id=self.applicant.id,
            product=self.product,
            amount=Money(amount=self.amount, currency=self.currency),
            tenor_days=self.tenor_days,
            industry=self.industry,
            evidence=tuple(Evidence(kind=one.kind, reference=one.reference, value=one.value) for one in self.evidence),
        )


class _Event(ClosedModel):
    id: Id
    """The client's own id of the event: the same id is the same event."""
    occurred_at: Moment


class PaymentSettled(_Event):
    """A payment to the seller settled: a pre-approved offer may follow by itself."""

    model_config = _example(
        {
            "kind": "payment_settled",
            "id": "settlement-77",
            "occurred_at": "2026-11-25T08:00:00+00:00",
            "applicant": _APPLICANT,
            "amount": "300000.00",
            "currency": "CNY",
            "industry": "home",
        }
    )

    kind: Literal["payment_settled"]
    applicant: Applicant
    amount: Amount
    currency: Currency
    industry: Name
    repays: Id | None = None
    """The decision whose financing this payment pays back, if it does."""


class _Signal(_Event):
    decision_id: Id


class Shipment(_Signal):
    """A financed shipment is late, or is not."""

    model_config = _example(
        {
            "kind": "shipment",
            "id": "shipment-5-day-9",
            "occurred_at": "2026-11-25T08:00:00+00:00",
            "decision_id": "dec-019e0b2f4c00aa0011223344556677889900",
            "days_late": 9,
        }
    )

    kind: Literal["shipment"]
    days_late: Annotated[int, Field(ge=0, le=3650)]

    def signal(self) -> LateShipment:
        """As the watch takes it."""
        return LateShipment(days_late=self.days_late)


class Refund(_Signal):
    """Refunds of the last weeks against what is usual for the seller, both as a share of payments."""

    model_config = _example(
        {
            "kind": "refund",
            "id": "refunds-week-47",
            "occurred_at": "2026-11-25T08:00:00+00:00",
            "decision_id": "dec-019e0b2f4c00aa0011223344556677889900",
            "recent_rate": "0.06",
            "usual_rate": "0.02",
        }
    )

    kind: Literal["refund"]
    recent_rate: Share
    usual_rate: Share

    def signal(self) -> RefundSpike:
        """As the watch takes it."""
        return RefundSpike(recent_rate=self.recent_rate, usual_rate=self.usual_rate)


class RateChange(_Signal):
    """The exchange rate between the financing's currency and the seller's, then and now."""

    model_config = _example(
        {
            "kind": "rate",
            "id": "usd-cny-2026-11-25",
            "occurred_at": "2026-11-25T08:00:00+00:00",
            "decision_id": "dec-019e0b2f4c00aa0011223344556677889900",
            "rate_at_decision": "7.10",
            "rate_now": "7.35",
        }
    )

    kind: Literal["rate"]
    rate_at_decision: Rate
    rate_now: Rate

    def signal(self) -> RateMove:
        """As the watch takes it."""
        return RateMove(rate_at_decision=self.rate_at_decision, rate_now=self.rate_now)


EventRequest = Annotated[PaymentSettled | Shipment | Refund | RateChange, Field(discriminator="kind")]
"""`POST /v1/events`."""
EVENT_REQUEST: TypeAdapter[PaymentSettled | Shipment | Refund | RateChange] = TypeAdapter(EventRequest)

Verdict = Literal["approve", "decline"]


class ReviewProposal(ClosedModel):
    """`POST /v1/reviews/{id}/proposal`: the first person's verdict on what the policy proposed."""

    model_config = _example({"verdict": "approve", "why": "Long history with the buyer; documents seen."})

    verdict: Verdict
    why: Text


class ReviewConfirmation(ClosedModel):
    """`POST /v1/reviews/{id}/confirmation`: the second person's verdict; another one than the first sends it back."""

    model_config = _example({"verdict": "approve", "why": "Seen and agreed.", "confirms": "ab" * 32})

    verdict: Verdict
    why: Text
    confirms: Token
    """`to_confirm` of the review as it was read: what is confirmed cannot change in between."""


class DisbursementRequest(ClosedModel):
    """`POST /v1/decisions/{id}/disbursements`."""

    model_config = _example({"amount": "100000.00", "currency": "CNY", "why": "First instalment to the supplier."})

    amount: Amount
    currency: Currency
    why: Text

    @property
    def money(self) -> Money:
        """The amount with its currency."""
        return Money(amount=self.amount, currency=self.currency)

"""Between rows of the tables and the store's records."""

from __future__ import annotations

import json
from typing import Any, Final, cast

import sqlalchemy as sa

from coordinator.database.schema import (
    DecisionRow,
    DeliveryRow,
    EventRow,
    IdempotencyRow,
    OfferRow,
    ReviewRow,
    TransitionRow,
    WebhookEndpointRow,
)
from coordinator.decisions.records import (
    DecisionRecord,
    Delivery,
    InboundEvent,
    OfferRecord,
    Response,
    Review,
    StoredDecision,
    StoredOffer,
    Transition,
    WebhookEndpoint,
)


def _columns(*models: type[Any]) -> sa.Select[Any]:
    return sa.select(*(cast("sa.Table", model.__table__) for model in models))


DECISIONS: Final = _columns(DecisionRow)
TRANSITIONS: Final = _columns(TransitionRow)
EVENTS: Final = _columns(EventRow)
OFFERS: Final = _columns(OfferRow)
REVIEWS: Final = _columns(ReviewRow)
ENDPOINTS: Final = _columns(WebhookEndpointRow)
# Statements that every request runs are built once: building one costs more than running it.
ANSWER: Final = _columns(IdempotencyRow).where(
    IdempotencyRow.tenant_id == sa.bindparam("tenant"), IdempotencyRow.key == sa.bindparam("key")
)
DECISION_OF_TENANT: Final = DECISIONS.where(
    DecisionRow.id == sa.bindparam("id"), DecisionRow.tenant_id == sa.bindparam("tenant")
)
EVENT_OF_SOURCE: Final = EVENTS.where(
    EventRow.tenant_id == sa.bindparam("tenant"), EventRow.source_id == sa.bindparam("source_id")
)
DELIVERIES: Final = sa.select(
    *(column.label(f"d_{column.name}") for column in cast("sa.Table", DeliveryRow.__table__).c),
    *cast("sa.Table", WebhookEndpointRow.__table__).c,
).join_from(DeliveryRow, WebhookEndpointRow)

_Row = sa.RowMapping


def decision_row(record: DecisionRecord, *, salt: bytes, entry: int) -> dict[str, Any]:
    """Columns of a decision that is new."""
    return {
        "id": record.id,
        "tenant_id": record.tenant,
        "applicant": record.applicant,
        "product": record.product,
        "amount": record.amount,
        "currency": record.currency,
        "tenor_days": record.tenor_days,
        "outcome": record.outcome,
        "reasons": sorted_json(list(record.reasons)),
        "rate": record.rate,
        "policy_versions": sorted_json(dict(record.policy_versions)),
        "model_version": record.model_version,
        "mode": record.mode,
        "inputs_hash": record.inputs_hash,
        "document": record.document,
        "salt": salt,
        "initial_status": record.initial_status,
        "status": record.initial_status,
        "transitions": 0,
        "created_at": record.created_at,
        "entry": entry,
    }


def decision_of(row: _Row) -> StoredDecision:
    """A decision from its row."""
    record = DecisionRecord(
        id=row["id"],
        tenant=row["tenant_id"],
        applicant=row["applicant"],
        product=row["product"],
        amount=row["amount"],
        currency=row["currency"],
        tenor_days=row["tenor_days"],
        outcome=row["outcome"],
        reasons=tuple(json.loads(row["reasons"])),
        rate=row["rate"],
        policy_versions=json.loads(row["policy_versions"]),
        model_version=row["model_version"],
        mode=row["mode"],
        inputs_hash=row["inputs_hash"],
        document=row["document"],
        initial_status=row["initial_status"],
        created_at=row["created_at"],
    )
    return StoredDecision(
        record=record, status=row["status"], transitions=row["transitions"], entry=row["entry"], salt=row["salt"]
    )


def transition_of(row: _Row) -> Transition:
    """A transition from its row."""
    return Transition(**row)


def offer_row(record: OfferRecord, *, entry: int) -> dict[str, Any]:
    """Columns of an offer that is new."""
    return {
        "id": record.id,
        "tenant_id": record.tenant,
        "applicant": record.applicant,
        "product": record.product,
        "amount": record.amount,
        "currency": record.currency,
        "tenor_days": record.tenor_days,
        "rate": record.rate,
        "decision_id": record.decision_id,
        "event_id": record.event_id,
        "document": record.document,
        "status": "open",
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "closed_at": None,
        "entry": entry,
    }


def offer_of(row: _Row) -> StoredOffer:
    """An offer from its row."""
    record = OfferRecord(
        id=row["id"],
        tenant=row["tenant_id"],
        applicant=row["applicant"],
        product=row["product"],
        amount=row["amount"],
        currency=row["currency"],
        tenor_days=row["tenor_days"],
        rate=row["rate"],
        decision_id=row["decision_id"],
        event_id=row["event_id"],
        document=row["document"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
    )
    return StoredOffer(record=record, status=row["status"], closed_at=row["closed_at"], entry=row["entry"])


def event_of(row: _Row) -> InboundEvent:
    """An event from its row."""
    values = dict(row)
    del values["digest"]
    return InboundEvent(tenant=values.pop("tenant_id"), **values)


def review_of(row: _Row) -> Review:
    """A review from its row."""
    values = dict(row)
    return Review(tenant=values.pop("tenant_id"), **values)


def endpoint_of(row: _Row) -> WebhookEndpoint:
    """A webhook endpoint from its row."""
    return WebhookEndpoint(
        id=row["id"],
        tenant=row["tenant_id"],
        url=row["url"],
        key_id=row["key_id"],
        topics=tuple(json.loads(row["topics"])),
        created_at=row["created_at"],
        disabled_at=row["disabled_at"],
    )


def response_of(row: _Row) -> Response:
    """A remembered answer from its row."""
    return Response(status=row["status"], body=row["body"], headers=json.loads(row["headers"]), replayed=True)


def delivery_of(row: _Row) -> Delivery:
    """A delivery from a row of `DELIVERIES`."""
    return Delivery(
        id=row["d_id"],
        endpoint=endpoint_of(row),
        topic=row["d_topic"],
        payload=row["d_payload"],
        created_at=row["d_created_at"],
        attempts=row["d_attempts"],
        next_attempt_at=row["d_next_attempt_at"],
        delivered_at=row["d_delivered_at"],
        last_status=row["d_last_status"],
        last_problem=row["d_last_problem"],
    )


def sorted_json(value: object) -> str:
    """JSON text with sorted keys, for columns that hold a list or an object."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

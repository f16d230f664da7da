"""The ledger entry of each record: what is written beside it, and what an audit expects to find."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.decisions.records import DecisionRecord, OfferRecord, Transition
from coordinator.ledger.commitments import commitment
from coordinator.ledger.entries import DecisionEntry, OfferEntry, TransitionEntry, time_text


def decision_entry(
    record: DecisionRecord, salt: bytes, *, survivors: Sequence[str] = (), degraded: bool = False
) -> DecisionEntry:
    """The entry of a decision; who was in the score's sum stands there alone."""
    return DecisionEntry(
        at=time_text(record.created_at),
        decision=commitment(salt, "decision", record.id.encode()),
        tenant=commitment(salt, "tenant", record.tenant.encode()),
        inputs=commitment(salt, "inputs", record.inputs_hash),
        record=commitment(salt, "record", record.canonical()),
        policies=dict(record.policy_versions),
        model=record.model_version,
        mode=record.mode,
        survivors=tuple(survivors),
        degraded=degraded,
    )


def transition_entry(transition: Transition, salt: bytes) -> TransitionEntry:
    """The entry of a transition, under its decision's salt."""
    return TransitionEntry(
        at=time_text(transition.at),
        decision=commitment(salt, "decision", transition.decision_id.encode()),
        record=commitment(salt, "transition", transition.canonical()),
        to=transition.to_status,
    )


def offer_entry(record: OfferRecord, salt: bytes) -> OfferEntry:
    """The entry of an offer, under its decision's salt."""
    return OfferEntry(
        at=time_text(record.created_at),
        decision=commitment(salt, "decision", record.decision_id.encode()),
        offer=commitment(salt, "offer", record.id.encode()),
        record=commitment(salt, "offer record", record.canonical()),
    )

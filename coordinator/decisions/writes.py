"""What one caller writes, all of it or none: the methods that a unit of work is made of.

Every decision, transition and offer takes its ledger entry with it; there is no way to write one without the other.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from coordinator.database.errors import RecordRefused
from coordinator.database.schema import (
    CheckpointRow,
    CosignatureRow,
    DecisionRow,
    DeliveryRow,
    EventRow,
    IdempotencyRow,
    OfferRow,
    PolicyArchiveRow,
    ReviewRow,
    TenantRow,
    TransitionRow,
    WebhookEndpointRow,
)
from coordinator.database.transaction import Transaction
from coordinator.decisions.errors import (
    DecisionUnknown,
    EventConflict,
    IdempotencyConflict,
    OfferClosed,
    ReviewRefused,
    StatusConflict,
)
from coordinator.decisions.ledgered import decision_entry, offer_entry, transition_entry
from coordinator.decisions.records import (
    DecisionRecord,
    InboundEvent,
    OfferRecord,
    OfferStatus,
    Response,
    Review,
    StoredDecision,
    StoredOffer,
    Transition,
    Verdict,
    WebhookEndpoint,
)
from coordinator.decisions.rows import (
    ANSWER,
    DECISION_OF_TENANT,
    EVENT_OF_SOURCE,
    OFFERS,
    REVIEWS,
    decision_of,
    decision_row,
    event_of,
    offer_of,
    offer_row,
    response_of,
    review_of,
    sorted_json,
)
from coordinator.decisions.standing import ARCHIVE, StandingWrites
from coordinator.ledger.commitments import SALT_BYTES
from coordinator.ledger.entries import Entry, encode_entry


class DecisionWrites(StandingWrites):
    """The store's writes within one transaction, handed to a unit of work (see `DecisionStore.commit`).

    Args:
        transaction: The transaction, shared with other callers' work.
        rng: Cryptographic randomness.
        now: The time of what has no time of its own.
    """

    def __init__(self, transaction: Transaction, *, rng: Callable[[int], bytes], now: dt.datetime) -> None:
        self._transaction = transaction
        self._rng = rng
        self.now = now

    # -- the ledger -----------------------------------------------------------------------------------

    def append(self, entry: Entry) -> int:
        """Append an entry that belongs to no row: a disclosure, a release, an alarm.

        Returns:
            Its position in the log.
        """
        return self._transaction.append(entry.kind, encode_entry(entry))

    def keep_checkpoint(self, size: int, root: bytes, note: str) -> None:
        """Keep a checkpoint that is about to be sent to witnesses, unless it is kept already."""
        kept = self._transaction.execute(sa.select(CheckpointRow.size).where(CheckpointRow.size == size)).first()
        if kept is None:
            self._transaction.insert(CheckpointRow, size=size, root=root, note=note, created_at=self.now)

    def keep_cosignature(self, size: int, witness: str, line: str) -> None:
        """Keep a witness's line, once it was verified; a later one replaces it."""
        self._transaction.execute(
            sa.delete(CosignatureRow).where(CosignatureRow.size == size, CosignatureRow.witness == witness)
        )
        self._transaction.insert(CosignatureRow, size=size, witness=witness, line=line, at=self.now)

    def keep_policy(self, sha256: str, content: str) -> None:
        """Keep the tables of a policy that is about to decide, unless they are kept already."""
        if self._transaction.execute(ARCHIVE, sha256=sha256).first() is None:
            self._transaction.insert(PolicyArchiveRow, sha256=sha256, content=content, created_at=self.now)

    # -- decisions ------------------------------------------------------------------------------------

    def add_decision(
        self, record: DecisionRecord, *, survivors: Sequence[str] = (), degraded: bool = False
    ) -> StoredDecision:
        """Write a decision with its ledger entry.

        Args:
            record: The decision.
            survivors: Members in the score's sum, in federated mode.
            degraded: Whether a role was silent.
        """
        salt = self._rng(SALT_BYTES)
        entry = self.append(decision_entry(record, salt, survivors=survivors, degraded=degraded))
        self._transaction.insert(DecisionRow, **decision_row(record, salt=salt, entry=entry))
        return StoredDecision(record=record, status=record.initial_status, transitions=0, entry=entry, salt=salt)

    def decision(self, tenant: str, decision_id: str) -> StoredDecision:
        """The tenant's decision as it stands within this transaction.

        Raises:
            DecisionUnknown: The tenant has none of that id.
        """
        row = self._one(DECISION_OF_TENANT, id=decision_id, tenant=tenant)
        if row is None:
            raise DecisionUnknown(decision_id)
        return decision_of(row)

    def move(self, tenant: str, decision_id: str, *, expected: str, to: str, actor: str, why: str) -> Transition:
        """Change a decision's status, with its ledger entry.

        Args:
            tenant: Whose decision.
            decision_id: Which.
            expected: Where the caller believes it stands.
            to: Where it stands from now on.
            actor: Who changes it: a person's or a client's id, or "policy".
            why: In one sentence.

        Raises:
            DecisionUnknown: The tenant has none of that id.
            StatusConflict: It stands elsewhere by now.
        """
        stored = self.decision(tenant, decision_id)
        if stored.status != expected:
            raise StatusConflict(decision_id, expected=expected, found=stored.status)
        transition = Transition(
            decision_id=decision_id,
            number=stored.transitions + 1,
            from_status=expected,
            to_status=to,
            actor=actor,
            why=why,
            at=self.now,
            entry=-1,
        )
        entry = self.append(transition_entry(transition, stored.salt))
        transition = replace(transition, entry=entry)
        self._transaction.insert(TransitionRow, **vars(transition))
        self._transaction.execute(
            sa.update(DecisionRow).where(DecisionRow.id == decision_id).values(status=to, transitions=transition.number)
        )
        return transition

    # -- events and offers ----------------------------------------------------------------------------

    def add_event(self, event: InboundEvent) -> InboundEvent | None:
        """Write an event, unless it was reported before.

        Returns:
            The event as it was reported before, or None: it is new, act on it.

        Raises:
            EventConflict: Another event has this `source_id`.
        """
        known = self._one(EVENT_OF_SOURCE, tenant=event.tenant, source_id=event.source_id)
        digest = hashlib.sha256(f"{event.kind}\n{event.document}".encode()).digest()
        if known is not None:
            if known["digest"] != digest:
                raise EventConflict(event.source_id)
            return event_of(known)
        row = {**vars(event), "tenant_id": event.tenant, "digest": digest}
        del row["tenant"]
        self._transaction.insert(EventRow, **row)
        return None

    def add_offer(self, record: OfferRecord, decision: StoredDecision) -> StoredOffer:
        """Write an offer with its ledger entry. One event makes one offer at most.

        Args:
            record: The offer.
            decision: The decision that approved it, of the same tenant.
        """
        if (record.decision_id, record.tenant) != (decision.record.id, decision.record.tenant):
            raise RecordRefused(
                f"Offer {record.id}: expected the decision that it names, of its tenant, found another."
            )
        entry = self.append(offer_entry(record, decision.salt))
        self._transaction.insert(OfferRow, **offer_row(record, entry=entry))
        return StoredOffer(record=record, status="open", closed_at=None, entry=entry)

    def open_offer(self, tenant: str, offer_id: str) -> StoredOffer:
        """The offer within this transaction, if it is open.

        Raises:
            OfferClosed: The tenant has no such offer that is open.
        """
        row = self._one(OFFERS.where(OfferRow.id == offer_id, OfferRow.tenant_id == tenant, OfferRow.status == "open"))
        if row is None:
            raise OfferClosed(offer_id)
        return offer_of(row)

    def offer_of_event(self, tenant: str, event_id: str) -> StoredOffer | None:
        """The offer that an event triggered, if it did."""
        row = self._one(OFFERS.where(OfferRow.event_id == event_id, OfferRow.tenant_id == tenant))
        return None if row is None else offer_of(row)

    def close_offer(self, tenant: str, offer_id: str, status: OfferStatus) -> StoredOffer:
        """End an open offer: accepted, expired or withdrawn.

        Raises:
            OfferClosed: The tenant has no such offer that is open.
        """
        offer = self.open_offer(tenant, offer_id)
        self._transaction.execute(
            sa.update(OfferRow).where(OfferRow.id == offer_id).values(status=status, closed_at=self.now)
        )
        return replace(offer, status=status, closed_at=self.now)

    # -- reviews --------------------------------------------------------------------------------------

    def open_review(self, review_id: str, tenant: str, decision_id: str, why: str) -> Review:
        """Ask two people to look at a decision."""
        review = Review(
            id=review_id, tenant=tenant, decision_id=decision_id, why=why, status="open", opened_at=self.now
        )
        row = {**vars(review), "tenant_id": tenant}
        del row["tenant"]
        self._transaction.insert(ReviewRow, **row)
        return review

    def propose(self, tenant: str, review_id: str, *, maker: str, verdict: Verdict, why: str) -> Review:
        """The first of two verdicts.

        Raises:
            ReviewRefused: The tenant has no such review that is open.
        """
        review = self._review(tenant, review_id, "open")
        return self._update_review(
            review, status="proposed", maker=maker, maker_verdict=verdict, maker_why=why, maker_at=self.now
        )

    def check(self, tenant: str, review_id: str, *, checker: str, verdict: Verdict, why: str) -> Review:
        """The second verdict, which closes the review. What follows from the two is the caller's to decide.

        Raises:
            ReviewRefused: The tenant has no such review with one verdict, or the checker is its maker.
        """
        review = self._review(tenant, review_id, "proposed")
        if checker == review.maker:
            raise ReviewRefused(
                f"Review {review_id}: expected a checker who is not its maker, found {checker!r}; ask somebody else."
            )
        return self._update_review(
            review, status="closed", checker=checker, checker_verdict=verdict, checker_why=why, checker_at=self.now
        )

    def _review(self, tenant: str, review_id: str, status: str) -> Review:
        row = self._one(REVIEWS.where(ReviewRow.id == review_id, ReviewRow.tenant_id == tenant))
        if row is None or row["status"] != status:
            found = "none" if row is None else f"one that is {row['status']}"
            raise ReviewRefused(f"Expected a review {review_id[:64]!r} that is {status}, found {found}.")
        return review_of(row)

    def _update_review(self, review: Review, **changes: Any) -> Review:
        self._transaction.execute(sa.update(ReviewRow).where(ReviewRow.id == review.id).values(**changes))
        return replace(review, **changes)

    # -- answers, tenants, webhooks -------------------------------------------------------------------

    def answered(self, tenant: str, key: str, request_hash: bytes) -> Response | None:
        """The answer that was given under an Idempotency-Key, or None: do the work and `remember` its answer.

        Raises:
            IdempotencyConflict: It was given to another request.
        """
        # Without sending what waits: if the answer is among it, both are found out by their equal keys at the end.
        row = self._transaction.look_up(ANSWER, tenant=tenant, key=key)
        return None if row is None else replayed(row, key, request_hash)

    def remember(self, tenant: str, key: str, request_hash: bytes, response: Response) -> None:
        """Keep an answer under an Idempotency-Key."""
        self._transaction.insert(
            IdempotencyRow,
            tenant_id=tenant,
            key=key,
            request_hash=request_hash,
            status=response.status,
            headers=sorted_json(dict(response.headers)),
            body=response.body,
            created_at=self.now,
        )

    def add_tenant(self, tenant: str, name: str) -> None:
        """Write a tenant, unless it is there."""
        if self._transaction.execute(sa.select(TenantRow.id).where(TenantRow.id == tenant)).first() is None:
            self._transaction.insert(TenantRow, id=tenant, name=name, created_at=self.now)

    def add_endpoint(self, endpoint: WebhookEndpoint) -> None:
        """Write where a tenant wants to be told."""
        self._transaction.insert(
            WebhookEndpointRow,
            id=endpoint.id,
            tenant_id=endpoint.tenant,
            url=endpoint.url,
            key_id=endpoint.key_id,
            topics=sorted_json(list(endpoint.topics)),
            created_at=endpoint.created_at,
            disabled_at=endpoint.disabled_at,
        )

    def disable_endpoint(self, tenant: str, endpoint_id: str) -> bool:
        """Stop telling; what waits for the endpoint is given up. Whether it was there."""
        mine = (WebhookEndpointRow.id == endpoint_id, WebhookEndpointRow.tenant_id == tenant)
        disabled = self._transaction.execute(sa.update(WebhookEndpointRow).where(*mine).values(disabled_at=self.now))
        if disabled.rowcount == 0:
            return False
        self._transaction.execute(
            sa.update(DeliveryRow)
            .where(DeliveryRow.endpoint_id == endpoint_id, DeliveryRow.next_attempt_at.is_not(None))
            .values(next_attempt_at=None, last_problem="the endpoint was disabled")
        )
        return True

    def deliver(self, delivery_id: str, endpoint_id: str, topic: str, payload: str) -> None:
        """Put a webhook into the outbox, to be sent as soon as this is committed."""
        self._transaction.insert(
            DeliveryRow,
            id=delivery_id,
            endpoint_id=endpoint_id,
            topic=topic,
            payload=payload,
            created_at=self.now,
            attempts=0,
            next_attempt_at=self.now,
            delivered_at=None,
            last_status=None,
            last_problem=None,
        )

    def delivery_ended(
        self, delivery_id: str, *, status: int | None, problem: str | None, next_attempt_at: dt.datetime | None
    ) -> None:
        """Record an attempt to deliver.

        Args:
            delivery_id: Which.
            status: The HTTP status, where there was one.
            problem: What went wrong, or None: it is delivered.
            next_attempt_at: When to try again, or None: given up.
        """
        delivered = problem is None
        self._transaction.execute(
            sa.update(DeliveryRow)
            .where(DeliveryRow.id == delivery_id)
            .values(
                attempts=DeliveryRow.attempts + 1,
                delivered_at=self.now if delivered else None,
                next_attempt_at=None if delivered else next_attempt_at,
                last_status=status,
                last_problem=problem,
            )
        )

    def forget_answers(self, before: dt.datetime) -> int:
        """Delete remembered answers older than that; how many."""
        gone = self._transaction.execute(sa.delete(IdempotencyRow).where(IdempotencyRow.created_at < before))
        return gone.rowcount

    def _one(self, statement: sa.Select[Any], **values: Any) -> sa.RowMapping | None:
        return self._transaction.execute(statement, **values).mappings().first()


def replayed(row: sa.RowMapping, key: str, request_hash: bytes) -> Response:
    """The remembered answer to the same request.

    Raises:
        IdempotencyConflict: It was given to another request.
    """
    if row["request_hash"] != request_hash:
        raise IdempotencyConflict(key)
    return response_of(row)

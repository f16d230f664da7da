"""The store of decisions: one writer that commits in groups, readers beside it, and the ledger in the same database.

A unit of work is a function of `DecisionWrites`; everything in it is committed together, on the disk when `commit`
returns, or not at all:

```python
def work(writes: DecisionWrites) -> Response:
    stored = writes.add_decision(record)
    response = Response(status=201, body=rendered(stored))
    writes.deliver(store.new_id("del"), endpoint.id, "decision.created", payload)
    return response

response = await store.once(tenant, key, request_hash, work)
```

It runs on the writer's thread, for microseconds, and may be run again when its transaction had to be rolled back:
it reads and writes through `DecisionWrites` and does nothing else.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable
from typing import Any, Final, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine

from coordinator.database.connection import parse_url, reading_engine, writing_engine
from coordinator.database.errors import DatabaseRefused
from coordinator.database.group_commit import MAX_BATCH, MAX_WAITING, GroupCommit
from coordinator.database.migrate import require_schema
from coordinator.database.schema import (
    DecisionRow,
    DeliveryRow,
    FacilityRow,
    LedgerHeadRow,
    OfferRow,
    ReviewRow,
    TransitionRow,
    WebhookEndpointRow,
)
from coordinator.database.transaction import Transaction
from coordinator.decisions.records import (
    Delivery,
    Page,
    Response,
    Review,
    StoredDecision,
    StoredOffer,
    Transition,
    WebhookEndpoint,
)
from coordinator.decisions.rows import (
    ANSWER,
    DECISION_OF_TENANT,
    DECISIONS,
    DELIVERIES,
    ENDPOINTS,
    OFFERS,
    REVIEWS,
    TRANSITIONS,
    decision_of,
    delivery_of,
    endpoint_of,
    offer_of,
    review_of,
    transition_of,
)
from coordinator.decisions.standing import ARCHIVE, FACILITIES, FacilityRecord, facility_of
from coordinator.decisions.writes import DecisionWrites, replayed
from policies.closed_model import shown

T = TypeVar("T")


class EveryTenant:
    """Reads across tenants: for operator and regulator, who must be asked for by name."""


EVERY_TENANT: Final = EveryTenant()
Scope = str | EveryTenant


def utc_now() -> dt.datetime:
    """Wall clock, aware."""
    return dt.datetime.now(dt.UTC)


class DecisionStore:
    """Decisions, what belongs to them, and their ledger.

    Reads are ordinary blocking calls (0.1 to 1 ms): call them from a thread, as FastAPI does for a `def` endpoint.

    Args:
        url: Of `parse_url`; its schema was checked.
        writer: The engine that writes.
        origin: First line of the ledger's checkpoints.
        max_batch: Most pieces of work in one commit.
        max_waiting: Most pieces of work that may wait for a commit (back-pressure).
        rng: Cryptographic randomness.
        clock: Wall clock, aware.
    """

    def __init__(
        self,
        url: URL,
        writer: Engine,
        *,
        origin: str,
        max_batch: int = MAX_BATCH,
        max_waiting: int = MAX_WAITING,
        rng: Callable[[int], bytes] = os.urandom,
        clock: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self.url = url
        self.origin = origin
        self._writer_engine = writer
        self._reader = reading_engine(url)
        self._rng = rng
        self._clock = clock
        self._commits = GroupCommit(writer, max_batch=max_batch, max_waiting=max_waiting)

    @classmethod
    def open(
        cls,
        url: str,
        *,
        origin: str,
        survives_power_cut: bool = True,
        max_batch: int = MAX_BATCH,
        max_waiting: int = MAX_WAITING,
        rng: Callable[[int], bytes] = os.urandom,
        clock: Callable[[], dt.datetime] = utc_now,
    ) -> Self:
        """Open a database, checking its schema and that its ledger is the one named.

        Args:
            url: `sqlite:///PATH` or `postgresql://USER@HOST/DATABASE`; an empty database gets its tables.
            origin: The ledger's name (`coordinator.ledger.checkpoints.origin_of`); the first to open it gives it.
            survives_power_cut: Whether a commit waits for the disk. False is for simulations in one process.
            max_batch: Most pieces of work in one commit.
            max_waiting: Most pieces of work that may wait for a commit.
            rng: Cryptographic randomness.
            clock: Wall clock, aware.

        Raises:
            DatabaseRefused: The database cannot be opened, has another schema, or holds another ledger.
        """
        parsed = parse_url(url)
        writer = writing_engine(parsed, survives_power_cut=survives_power_cut)
        try:
            require_schema(writer, parsed)
            _name_the_ledger(writer, origin)
        except BaseException:
            writer.dispose()
            raise
        return cls(parsed, writer, origin=origin, max_batch=max_batch, max_waiting=max_waiting, rng=rng, clock=clock)

    def close(self) -> None:
        """Finish what was accepted, and close."""
        self._commits.close()
        self._writer_engine.dispose()
        self._reader.dispose()

    def new_id(self, prefix: str) -> str:
        """A new id: `prefix-`, the time in ms, 80 random bits; later ids sort behind earlier ones."""
        stamp = int(self._clock().timestamp() * 1000)
        return f"{prefix}-{stamp:012x}{self._rng(10).hex()}"

    # -- writes ---------------------------------------------------------------------------------------

    async def commit(self, work: Callable[[DecisionWrites], T]) -> T:
        """Run a unit of work; its result, once it is committed.

        Raises:
            StoreBusy: Too much waits already; answer 429.
            StoreUnavailable: The database cannot be written now; answer 503.
            RecordRefused: A row breaks a rule of the tables.
            Exception: Whatever the work raises; nothing of it is then written.
        """
        return await self._commits.commit(self._unit(work))

    def commit_blocking(self, work: Callable[[DecisionWrites], T]) -> T:
        """As `commit`, for callers with a thread of their own."""
        return self._commits.commit_blocking(self._unit(work))

    async def once(
        self, tenant: str, key: str, request_hash: bytes, work: Callable[[DecisionWrites], Response]
    ) -> Response:
        """Do a request's work unless it was done before under its Idempotency-Key, and keep the answer with it.

        Args:
            tenant: Whose key; keys of different tenants have nothing to do with each other.
            key: The Idempotency-Key.
            request_hash: SHA-256 over method, path and body, 32 bytes.
            work: Does the work and gives the answer.

        Returns:
            The answer, or the one that was given before (`replayed`).

        Raises:
            IdempotencyConflict: The key was used for another request.
            Exception: As `commit`.
        """
        return await self.commit(_once(tenant, key, request_hash, work))

    def once_blocking(
        self, tenant: str, key: str, request_hash: bytes, work: Callable[[DecisionWrites], Response]
    ) -> Response:
        """As `once`, for callers with a thread of their own."""
        return self.commit_blocking(_once(tenant, key, request_hash, work))

    @property
    def waiting(self) -> int:
        """Pieces of work that wait for a commit now."""
        return self._commits.waiting

    @property
    def commits(self) -> int:
        """Transactions committed since the store was opened."""
        return self._commits.commits

    def _unit(self, work: Callable[[DecisionWrites], T]) -> Callable[[Transaction], T]:
        def unit(transaction: Transaction) -> T:
            return work(DecisionWrites(transaction, rng=self._rng, now=self._clock()))

        return unit

    # -- reads ----------------------------------------------------------------------------------------

    def answered(self, tenant: str, key: str, request_hash: bytes) -> Response | None:
        """The answer that was given under an Idempotency-Key, before any work is done for its repetition.

        Raises:
            IdempotencyConflict: It was given to another request.
        """
        rows = self._read(ANSWER, tenant=tenant, key=key)
        return replayed(rows[0], key, request_hash) if rows else None

    def decision(self, scope: Scope, decision_id: str) -> StoredDecision | None:
        """The decision, or None where the scope has none of that id."""
        if isinstance(scope, EveryTenant):
            rows = self._read(DECISIONS.where(DecisionRow.id == decision_id))
        else:
            rows = self._read(DECISION_OF_TENANT, id=decision_id, tenant=scope)
        return decision_of(rows[0]) if rows else None

    def decisions(
        self, scope: Scope, *, applicant: str | None = None, before: int | None = None, limit: int = 50
    ) -> Page[StoredDecision]:
        """Decisions, newest first.

        Args:
            scope: Whose.
            applicant: Of one applicant alone.
            before: `next_before` of the page before.
            limit: Most rows.
        """
        statement = _within(DECISIONS, DecisionRow.tenant_id, scope)
        if applicant is not None:
            statement = statement.where(DecisionRow.applicant == applicant)
        return self._page(statement, DecisionRow.entry, before, limit, decision_of)

    def transitions(self, scope: Scope, decision_id: str) -> tuple[Transition, ...]:
        """A decision's transitions, oldest first; none where the scope has no such decision."""
        statement = TRANSITIONS.join_from(TransitionRow, DecisionRow).where(TransitionRow.decision_id == decision_id)
        rows = self._read(_within(statement, DecisionRow.tenant_id, scope).order_by(TransitionRow.number))
        return tuple(transition_of(row) for row in rows)

    def offer(self, scope: Scope, offer_id: str) -> StoredOffer | None:
        """The offer, or None where the scope has none of that id."""
        rows = self._read(_within(OFFERS.where(OfferRow.id == offer_id), OfferRow.tenant_id, scope))
        return offer_of(rows[0]) if rows else None

    def offers(
        self,
        scope: Scope,
        *,
        applicant: str | None = None,
        open_only: bool = False,
        before: int | None = None,
        limit: int = 50,
    ) -> Page[StoredOffer]:
        """Offers, newest first; `open_only` leaves out those that were closed or have expired."""
        statement = _within(OFFERS, OfferRow.tenant_id, scope)
        if applicant is not None:
            statement = statement.where(OfferRow.applicant == applicant)
        if open_only:
            statement = statement.where(OfferRow.status == "open", OfferRow.expires_at > self._clock())
        return self._page(statement, OfferRow.entry, before, limit, offer_of)

    def reviews(self, scope: Scope, *, decision_id: str | None = None, unfinished: bool = False) -> tuple[Review, ...]:
        """Reviews, oldest first: of one decision, or those that wait for somebody."""
        statement = _within(REVIEWS, ReviewRow.tenant_id, scope)
        if decision_id is not None:
            statement = statement.where(ReviewRow.decision_id == decision_id)
        if unfinished:
            statement = statement.where(ReviewRow.status != "closed")
        return tuple(review_of(row) for row in self._read(statement.order_by(ReviewRow.opened_at, ReviewRow.id)))

    def review(self, scope: Scope, review_id: str) -> Review | None:
        """The review, or None where the scope has none of that id."""
        rows = self._read(_within(REVIEWS.where(ReviewRow.id == review_id), ReviewRow.tenant_id, scope))
        return review_of(rows[0]) if rows else None

    def endpoints(self, scope: Scope) -> tuple[WebhookEndpoint, ...]:
        """Webhook endpoints that are not disabled."""
        statement = _within(
            ENDPOINTS.where(WebhookEndpointRow.disabled_at.is_(None)), WebhookEndpointRow.tenant_id, scope
        )
        return tuple(endpoint_of(row) for row in self._read(statement.order_by(WebhookEndpointRow.created_at)))

    def due_deliveries(self, *, limit: int = 100) -> tuple[Delivery, ...]:
        """Deliveries whose next attempt is due, the longest waiting first."""
        due = DELIVERIES.where(DeliveryRow.next_attempt_at <= self._clock())
        rows = self._read(due.order_by(DeliveryRow.next_attempt_at, DeliveryRow.id).limit(limit))
        return tuple(delivery_of(row) for row in rows)

    def facility(self, scope: Scope, decision_id: str) -> FacilityRecord | None:
        """The decision's facility, or None where there is none."""
        rows = self._read(
            _within(FACILITIES.where(FacilityRow.decision_id == decision_id), FacilityRow.tenant_id, scope)
        )
        return facility_of(rows[0]) if rows else None

    def archived_policy(self, sha256: str) -> str | None:
        """The tables that are kept under this hash."""
        rows = self._read(ARCHIVE, sha256=sha256)
        return None if not rows else str(rows[0]["content"])

    def reading(self) -> sa.Connection:
        """A connection for reads in one transaction (the ledger's proofs); close it."""
        return self._reader.connect()

    def check(self) -> None:
        """Whether the database answers: for readiness.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: It does not.
        """
        self._read(sa.select(LedgerHeadRow.size))

    def _read(self, statement: sa.Select[Any], **values: Any) -> list[sa.RowMapping]:
        with self._reader.connect() as connection:
            return list(connection.execute(statement, values).mappings())

    def _page(
        self,
        statement: sa.Select[Any],
        position: sa.orm.InstrumentedAttribute[int],
        before: int | None,
        limit: int,
        read: Callable[[sa.RowMapping], T],
    ) -> Page[T]:
        if before is not None:
            statement = statement.where(position < before)
        rows = self._read(statement.order_by(position.desc()).limit(limit + 1))
        more = len(rows) > limit
        return Page(tuple(read(row) for row in rows[:limit]), rows[limit - 1]["entry"] if more else None)


def _within(statement: sa.Select[Any], tenant: sa.orm.InstrumentedAttribute[str], scope: Scope) -> sa.Select[Any]:
    return statement if isinstance(scope, EveryTenant) else statement.where(tenant == scope)


def _once(
    tenant: str, key: str, request_hash: bytes, work: Callable[[DecisionWrites], Response]
) -> Callable[[DecisionWrites], Response]:
    def unit(writes: DecisionWrites) -> Response:
        known = writes.answered(tenant, key, request_hash)
        if known is not None:
            return known
        response = work(writes)
        writes.remember(tenant, key, request_hash, response)
        return response

    return unit


def _name_the_ledger(writer: Engine, origin: str) -> None:
    with writer.begin() as connection:
        found = connection.execute(sa.select(LedgerHeadRow.origin).with_for_update()).scalar_one()
        if not found:
            connection.execute(sa.update(LedgerHeadRow).values(origin=origin))
        elif found != origin:
            raise DatabaseRefused(
                f"Expected the ledger {shown(origin)} in the database, found {shown(found)}; it is another"
                " consortium's: give this one a database of its own."
            )

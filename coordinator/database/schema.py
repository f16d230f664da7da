"""The tables. Texts that are hashed (documents, ledger entries) are kept as the very text; columns index them.

What was decided, why a status changed and what the ledger says is never updated: only `status`, the review's two
verdicts, an offer's end and the outbox's attempts change. The ledger's rows cannot be changed without dropping a
trigger (see the first migration), and a change made all the same is found by `tallystick ledger verify --database`.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from coordinator.database.column_types import ExactDecimal, UtcTime

OUTCOMES = ("approved", "referred", "declined")
MODES = ("released", "federated")
OFFER_STATES = ("open", "accepted", "expired", "withdrawn")
REVIEW_STATES = ("open", "proposed", "closed")
WATCH_STATES = ("active", "warned", "frozen")

_BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite numbers rows only in INTEGER columns
_Hash = sa.LargeBinary(32)


def _one_of(column: str, values: tuple[str, ...]) -> sa.CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} in ({listed})", name=f"{column}_is_known")


class Base(DeclarativeBase):
    """All tables of the coordinator's database."""

    metadata = sa.MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )


class TenantRow(Base):
    """A client organisation; nobody reads another tenant's rows."""

    __tablename__ = "tenants"

    id: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(200))
    created_at: Mapped[dt.datetime] = mapped_column(UtcTime)


_ABOUT_RUNS = sa.text("kind in ('opening', 'release')")


class LedgerEntryRow(Base):
    """One leaf of the Merkle log: `leaf_hash` = SHA-256(0x00 || body), RFC 6962."""

    __tablename__ = "ledger_entries"
    __table_args__ = (
        # Some entries of runs among very many decisions.
        sa.Index("ix_ledger_entries_of_runs", "kind", sqlite_where=_ABOUT_RUNS, postgresql_where=_ABOUT_RUNS),
    )

    entry: Mapped[int] = mapped_column(_BigId, primary_key=True, autoincrement=False)
    """Position in the log, from 0 and without a gap."""
    kind: Mapped[str] = mapped_column(sa.String(32))
    body: Mapped[str] = mapped_column(sa.Text)
    """Canonical JSON: hashes and versions, no personal data (coordinator/ledger/entries.py)."""
    leaf_hash: Mapped[bytes] = mapped_column(_Hash)


class LedgerNodeRow(Base):
    """The root of a perfect subtree of 256, 65536, ... leaves, so that a proof reads a few hundred rows at most."""

    __tablename__ = "ledger_nodes"

    level: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)
    """The subtree has 2**level leaves; a multiple of 8."""
    position: Mapped[int] = mapped_column(_BigId, primary_key=True)
    """It begins at leaf position * 2**level."""
    hash: Mapped[bytes] = mapped_column(_Hash)


class LedgerHeadRow(Base):
    """The one row whose lock orders all appends, whoever makes them."""

    __tablename__ = "ledger_head"
    __table_args__ = (sa.CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True, autoincrement=False)
    origin: Mapped[str] = mapped_column(sa.String(200))
    """First line of every checkpoint; empty until the log's first owner names it."""
    size: Mapped[int] = mapped_column(_BigId)
    frontier: Mapped[bytes] = mapped_column(sa.LargeBinary)
    """Roots of the perfect subtrees that the leaves divide into, largest first, 32 bytes each."""


class CheckpointRow(Base):
    """A checkpoint that was sent to witnesses: signed note, C2SP tlog-checkpoint."""

    __tablename__ = "ledger_checkpoints"

    size: Mapped[int] = mapped_column(_BigId, primary_key=True, autoincrement=False)
    root: Mapped[bytes] = mapped_column(_Hash)
    note: Mapped[str] = mapped_column(sa.Text)
    """As the operator signed it, without cosignatures."""
    created_at: Mapped[dt.datetime] = mapped_column(UtcTime)


class CosignatureRow(Base):
    """A witness's line under a checkpoint (C2SP tlog-cosignature), verified before it was stored."""

    __tablename__ = "ledger_cosignatures"

    size: Mapped[int] = mapped_column(sa.ForeignKey("ledger_checkpoints.size"), primary_key=True)
    witness: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    """Member id of the node that signed."""
    line: Mapped[str] = mapped_column(sa.String(600))
    at: Mapped[dt.datetime] = mapped_column(UtcTime)


class DecisionRow(Base):
    """A financing decision as it was taken. Only `status` and `transitions` ever change."""

    __tablename__ = "decisions"
    __table_args__ = (
        _one_of("outcome", OUTCOMES),
        _one_of("mode", MODES),
        sa.CheckConstraint("outcome <> 'declined' or reasons <> '[]'", name="a_decline_has_reasons"),
        sa.Index(None, "tenant_id", "entry"),
        sa.Index(None, "tenant_id", "applicant"),
    )

    id: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(sa.ForeignKey("tenants.id"))
    applicant: Mapped[str] = mapped_column(sa.String(200))
    """Token of the applicant, never a name."""
    product: Mapped[str] = mapped_column(sa.String(64))
    amount: Mapped[Decimal] = mapped_column(ExactDecimal)
    """Requested, in units of `currency`."""
    currency: Mapped[str] = mapped_column(sa.String(3))
    """ISO 4217."""
    tenor_days: Mapped[int] = mapped_column(sa.Integer)
    outcome: Mapped[str] = mapped_column(sa.String(16))
    reasons: Mapped[str] = mapped_column(sa.Text)
    """JSON list of reason codes, in order of weight."""
    rate: Mapped[Decimal | None] = mapped_column(ExactDecimal)
    """Yearly rate as a fraction (0.055 is 5.5 %), where one was offered."""
    policy_versions: Mapped[str] = mapped_column(sa.Text)
    """JSON object: table of the lending policy to its version."""
    model_version: Mapped[str] = mapped_column(sa.String(128))
    mode: Mapped[str] = mapped_column(sa.String(16))
    inputs_hash: Mapped[bytes] = mapped_column(_Hash)
    document: Mapped[str] = mapped_column(sa.Text)
    """The whole decision as canonical JSON."""
    salt: Mapped[bytes] = mapped_column(_Hash)
    """Random; keys the hashes in the ledger, so that nobody can guess what they stand for (erasing it ends that)."""
    initial_status: Mapped[str] = mapped_column(sa.String(32))
    status: Mapped[str] = mapped_column(sa.String(32))
    """Where it stands: `to_status` of its last transition, or `initial_status`."""
    transitions: Mapped[int] = mapped_column(sa.Integer)
    """How many transitions there were: the number of the last one."""
    created_at: Mapped[dt.datetime] = mapped_column(UtcTime)
    entry: Mapped[int] = mapped_column(sa.ForeignKey("ledger_entries.entry"), unique=True)


class TransitionRow(Base):
    """A change of a decision's status: who, when, why."""

    __tablename__ = "transitions"
    __table_args__ = (sa.CheckConstraint("actor <> '' and why <> ''", name="says_who_and_why"),)

    decision_id: Mapped[str] = mapped_column(sa.ForeignKey("decisions.id"), primary_key=True)
    number: Mapped[int] = mapped_column(sa.Integer, primary_key=True, autoincrement=False)
    """1, 2, ... within the decision."""
    from_status: Mapped[str] = mapped_column(sa.String(32))
    to_status: Mapped[str] = mapped_column(sa.String(32))
    actor: Mapped[str] = mapped_column(sa.String(200))
    why: Mapped[str] = mapped_column(sa.Text)
    at: Mapped[dt.datetime] = mapped_column(UtcTime)
    entry: Mapped[int] = mapped_column(sa.ForeignKey("ledger_entries.entry"), unique=True)


class EventRow(Base):
    """Something that happened at the client: a payment settled, a shipment, a refund, a rate."""

    __tablename__ = "events"
    __table_args__ = (
        sa.UniqueConstraint("tenant_id", "source_id"),
        sa.Index(None, "tenant_id", "applicant"),
        sa.Index(None, "decision_id"),
    )

    id: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(sa.ForeignKey("tenants.id"))
    source_id: Mapped[str] = mapped_column(sa.String(200))
    """The client's own id of the event: the same event twice is one event."""
    kind: Mapped[str] = mapped_column(sa.String(32))
    applicant: Mapped[str | None] = mapped_column(sa.String(200))
    decision_id: Mapped[str | None] = mapped_column(sa.ForeignKey("decisions.id"))
    document: Mapped[str] = mapped_column(sa.Text)
    digest: Mapped[bytes] = mapped_column(_Hash)
    """SHA-256 of the document: tells a repetition from another event under a used id."""
    occurred_at: Mapped[dt.datetime] = mapped_column(UtcTime)
    received_at: Mapped[dt.datetime] = mapped_column(UtcTime)


class OfferRow(Base):
    """Financing offered: by a decision, or by itself when an event triggered it."""

    __tablename__ = "offers"
    __table_args__ = (
        _one_of("status", OFFER_STATES),
        sa.Index(None, "tenant_id", "entry"),
        sa.Index(None, "tenant_id", "applicant"),
    )

    id: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(sa.ForeignKey("tenants.id"))
    applicant: Mapped[str] = mapped_column(sa.String(200))
    product: Mapped[str] = mapped_column(sa.String(64))
    amount: Mapped[Decimal] = mapped_column(ExactDecimal)
    currency: Mapped[str] = mapped_column(sa.String(3))
    tenor_days: Mapped[int] = mapped_column(sa.Integer)
    rate: Mapped[Decimal] = mapped_column(ExactDecimal)
    decision_id: Mapped[str] = mapped_column(sa.ForeignKey("decisions.id"))
    """The decision that approved it, an offer by itself included."""
    event_id: Mapped[str | None] = mapped_column(sa.ForeignKey("events.id"), unique=True)
    """The event that triggered it: one event makes one offer."""
    document: Mapped[str] = mapped_column(sa.Text)
    status: Mapped[str] = mapped_column(sa.String(16))
    created_at: Mapped[dt.datetime] = mapped_column(UtcTime)
    expires_at: Mapped[dt.datetime] = mapped_column(UtcTime)
    closed_at: Mapped[dt.datetime | None] = mapped_column(UtcTime)
    entry: Mapped[int] = mapped_column(sa.ForeignKey("ledger_entries.entry"), unique=True)


class ReviewRow(Base):
    """A decision that two people look at: the maker proposes, the checker, somebody else, agrees or not."""

    __tablename__ = "review_cases"
    __table_args__ = (
        _one_of("status", REVIEW_STATES),
        sa.CheckConstraint("checker is null or (maker is not null and checker <> maker)", name="maker_is_not_checker"),
        sa.Index(None, "tenant_id", "status"),
        sa.Index(None, "decision_id"),
    )

    id: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(sa.ForeignKey("tenants.id"))
    decision_id: Mapped[str] = mapped_column(sa.ForeignKey("decisions.id"))
    why: Mapped[str] = mapped_column(sa.Text)
    status: Mapped[str] = mapped_column(sa.String(16))
    opened_at: Mapped[dt.datetime] = mapped_column(UtcTime)
    maker: Mapped[str | None] = mapped_column(sa.String(200))
    maker_verdict: Mapped[str | None] = mapped_column(sa.String(16))
    maker_why: Mapped[str | None] = mapped_column(sa.Text)
    maker_at: Mapped[dt.datetime | None] = mapped_column(UtcTime)
    checker: Mapped[str | None] = mapped_column(sa.String(200))
    checker_verdict: Mapped[str | None] = mapped_column(sa.String(16))
    checker_why: Mapped[str | None] = mapped_column(sa.Text)
    checker_at: Mapped[dt.datetime | None] = mapped_column(UtcTime)


class FacilityRow(Base):
    """Money that may go out under an approved decision, or is out; a working copy of what the transitions say."""

    __tablename__ = "facilities"
    __table_args__ = (
        _one_of("watch", WATCH_STATES),
        # Whoever lends to an applicant takes the next number: of two who saw the same room, one is refused.
        sa.UniqueConstraint("tenant_id", "applicant", "number"),
    )

    decision_id: Mapped[str] = mapped_column(sa.ForeignKey("decisions.id"), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(sa.ForeignKey("tenants.id"))
    applicant: Mapped[str] = mapped_column(sa.String(200))
    number: Mapped[int] = mapped_column(sa.Integer)
    """1, 2, ... within the tenant's applicant."""
    industry: Mapped[str] = mapped_column(sa.String(64))
    currency: Mapped[str] = mapped_column(sa.String(3))
    granted: Mapped[Decimal] = mapped_column(ExactDecimal)
    """The limit, in units of `currency`."""
    disbursed: Mapped[Decimal] = mapped_column(ExactDecimal)
    repaid: Mapped[Decimal] = mapped_column(ExactDecimal)
    watch: Mapped[str] = mapped_column(sa.String(16))
    is_open: Mapped[bool] = mapped_column(sa.Boolean)
    """Whether it counts against what the applicant may owe."""


class FinancedEvidenceRow(Base):
    """A document that is lent against, by a keyed hash: found again without telling whose it was."""

    __tablename__ = "financed_evidence"

    fingerprint: Mapped[bytes] = mapped_column(_Hash, primary_key=True)
    number: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True, autoincrement=False)
    """1, 2, ...: two who both saw none cannot both take the first."""
    tenant_id: Mapped[str] = mapped_column(sa.ForeignKey("tenants.id"))
    decision_id: Mapped[str] = mapped_column(sa.ForeignKey("decisions.id"))


class PolicyArchiveRow(Base):
    """The tables of a policy that decided, kept as long as its decisions."""

    __tablename__ = "policy_archives"

    sha256: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    content: Mapped[str] = mapped_column(sa.Text)
    created_at: Mapped[dt.datetime] = mapped_column(UtcTime)


class IdempotencyRow(Base):
    """The answer that was given under an Idempotency-Key, to be given again."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (sa.Index(None, "created_at"),)

    tenant_id: Mapped[str] = mapped_column(sa.ForeignKey("tenants.id"), primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(255), primary_key=True)
    request_hash: Mapped[bytes] = mapped_column(_Hash)
    """SHA-256 over method, path and body: another request under a used key is refused."""
    status: Mapped[int] = mapped_column(sa.SmallInteger)
    headers: Mapped[str] = mapped_column(sa.Text)
    """JSON object."""
    body: Mapped[bytes] = mapped_column(sa.LargeBinary)
    created_at: Mapped[dt.datetime] = mapped_column(UtcTime)


class WebhookEndpointRow(Base):
    """Where a tenant wants to be told; the signing secret is named here and kept elsewhere."""

    __tablename__ = "webhook_endpoints"
    __table_args__ = (sa.Index(None, "tenant_id"),)

    id: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(sa.ForeignKey("tenants.id"))
    url: Mapped[str] = mapped_column(sa.String(2000))
    key_id: Mapped[str] = mapped_column(sa.String(64))
    topics: Mapped[str] = mapped_column(sa.Text)
    """JSON list."""
    created_at: Mapped[dt.datetime] = mapped_column(UtcTime)
    disabled_at: Mapped[dt.datetime | None] = mapped_column(UtcTime)


class DeliveryRow(Base):
    """A webhook that is to be delivered, or was: committed with what it tells of."""

    __tablename__ = "webhook_outbox"
    __table_args__ = (sa.Index(None, "next_attempt_at"), sa.Index(None, "endpoint_id", "created_at"))

    id: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(sa.ForeignKey("webhook_endpoints.id"))
    topic: Mapped[str] = mapped_column(sa.String(64))
    payload: Mapped[str] = mapped_column(sa.Text)
    """What is sent and signed, byte for byte."""
    created_at: Mapped[dt.datetime] = mapped_column(UtcTime)
    attempts: Mapped[int] = mapped_column(sa.SmallInteger)
    next_attempt_at: Mapped[dt.datetime | None] = mapped_column(UtcTime)
    """Null once it is delivered or given up."""
    delivered_at: Mapped[dt.datetime | None] = mapped_column(UtcTime)
    last_status: Mapped[int | None] = mapped_column(sa.SmallInteger)
    last_problem: Mapped[str | None] = mapped_column(sa.Text)

"""The first schema: tenants, decisions and what belongs to them, the ledger."""

import sqlalchemy as sa
from alembic import op

from coordinator.database.column_types import ExactDecimal, UtcTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ABOUT_RUNS = sa.text("kind in ('opening', 'release')")
_BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_SQLITE_GUARDS = (
    "create trigger ledger_entries_no_{verb} before {verb} on ledger_entries "
    "begin select raise(abort, 'the ledger is append-only'); end"
)
_POSTGRESQL_GUARD = (
    """create function ledger_is_append_only() returns trigger language plpgsql as
    $$ begin raise exception 'the ledger is append-only'; end $$""",
    """create trigger ledger_entries_append_only before update or delete or truncate on ledger_entries
    for each statement execute function ledger_is_append_only()""",
)


def upgrade() -> None:
    """Create every table, the ledger's empty head, and the triggers that keep its entries as they are."""
    op.create_table(
        "ledger_checkpoints",
        sa.Column("size", _BIG_ID, autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(length=32), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("size", name=op.f("pk_ledger_checkpoints")),
    )
    op.create_table(
        "ledger_entries",
        sa.Column("entry", _BIG_ID, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("leaf_hash", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("entry", name=op.f("pk_ledger_entries")),
    )
    op.create_index(
        "ix_ledger_entries_of_runs", "ledger_entries", ["kind"], sqlite_where=_ABOUT_RUNS, postgresql_where=_ABOUT_RUNS
    )
    op.create_table(
        "ledger_head",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("origin", sa.String(length=200), nullable=False),
        sa.Column("size", _BIG_ID, nullable=False),
        sa.Column("frontier", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_ledger_head_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_head")),
    )
    op.create_table(
        "ledger_nodes",
        sa.Column("level", sa.SmallInteger(), nullable=False),
        sa.Column("position", _BIG_ID, nullable=False),
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("level", "position", name=op.f("pk_ledger_nodes")),
    )
    op.create_table(
        "tenants",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenants")),
    )
    op.create_table(
        "decisions",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("applicant", sa.String(length=200), nullable=False),
        sa.Column("product", sa.String(length=64), nullable=False),
        sa.Column("amount", ExactDecimal(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("tenor_days", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("reasons", sa.Text(), nullable=False),
        sa.Column("rate", ExactDecimal(), nullable=True),
        sa.Column("policy_versions", sa.Text(), nullable=False),
        sa.Column("model_version", sa.String(length=128), nullable=False),
        sa.Column("mode", sa.String(length=16), nullable=False),
        sa.Column("inputs_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("salt", sa.LargeBinary(length=32), nullable=False),
        sa.Column("initial_status", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("transitions", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("entry", _BIG_ID, nullable=False),
        sa.CheckConstraint("mode in ('released', 'federated')", name=op.f("ck_decisions_mode_is_known")),
        sa.CheckConstraint("outcome <> 'declined' or reasons <> '[]'", name=op.f("ck_decisions_a_decline_has_reasons")),
        sa.CheckConstraint(
            "outcome in ('approved', 'referred', 'declined')", name=op.f("ck_decisions_outcome_is_known")
        ),
        sa.ForeignKeyConstraint(["entry"], ["ledger_entries.entry"], name=op.f("fk_decisions_entry")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_decisions_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decisions")),
        sa.UniqueConstraint("entry", name=op.f("uq_decisions_entry")),
    )
    op.create_index(op.f("ix_decisions_tenant_id_applicant"), "decisions", ["tenant_id", "applicant"], unique=False)
    op.create_index(op.f("ix_decisions_tenant_id_entry"), "decisions", ["tenant_id", "entry"], unique=False)
    op.create_table(
        "idempotency_keys",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("headers", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_idempotency_keys_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"], unique=False)
    op.create_table(
        "ledger_cosignatures",
        sa.Column("size", _BIG_ID, nullable=False),
        sa.Column("witness", sa.String(length=64), nullable=False),
        sa.Column("line", sa.String(length=600), nullable=False),
        sa.Column("at", UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(["size"], ["ledger_checkpoints.size"], name=op.f("fk_ledger_cosignatures_size")),
        sa.PrimaryKeyConstraint("size", "witness", name=op.f("pk_ledger_cosignatures")),
    )
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("url", sa.String(length=2000), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("topics", sa.Text(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("disabled_at", UtcTime(), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_webhook_endpoints_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoints")),
    )
    op.create_index(op.f("ix_webhook_endpoints_tenant_id"), "webhook_endpoints", ["tenant_id"], unique=False)
    op.create_table(
        "events",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("source_id", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("applicant", sa.String(length=200), nullable=True),
        sa.Column("decision_id", sa.String(length=64), nullable=True),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("occurred_at", UtcTime(), nullable=False),
        sa.Column("received_at", UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(["decision_id"], ["decisions.id"], name=op.f("fk_events_decision_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_events_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sa.UniqueConstraint("tenant_id", "source_id", name=op.f("uq_events_tenant_id_source_id")),
    )
    op.create_index(op.f("ix_events_decision_id"), "events", ["decision_id"], unique=False)
    op.create_index(op.f("ix_events_tenant_id_applicant"), "events", ["tenant_id", "applicant"], unique=False)
    op.create_table(
        "review_cases",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("decision_id", sa.String(length=64), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("opened_at", UtcTime(), nullable=False),
        sa.Column("maker", sa.String(length=200), nullable=True),
        sa.Column("maker_verdict", sa.String(length=16), nullable=True),
        sa.Column("maker_why", sa.Text(), nullable=True),
        sa.Column("maker_at", UtcTime(), nullable=True),
        sa.Column("checker", sa.String(length=200), nullable=True),
        sa.Column("checker_verdict", sa.String(length=16), nullable=True),
        sa.Column("checker_why", sa.Text(), nullable=True),
        sa.Column("checker_at", UtcTime(), nullable=True),
        sa.CheckConstraint("status in ('open', 'proposed', 'closed')", name=op.f("ck_review_cases_status_is_known")),
        sa.CheckConstraint(
            "checker is null or (maker is not null and checker <> maker)",
            name=op.f("ck_review_cases_maker_is_not_checker"),
        ),
        sa.ForeignKeyConstraint(["decision_id"], ["decisions.id"], name=op.f("fk_review_cases_decision_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_review_cases_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_review_cases")),
    )
    op.create_index(op.f("ix_review_cases_decision_id"), "review_cases", ["decision_id"], unique=False)
    op.create_index(op.f("ix_review_cases_tenant_id_status"), "review_cases", ["tenant_id", "status"], unique=False)
    op.create_table(
        "transitions",
        sa.Column("decision_id", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("from_status", sa.String(length=32), nullable=False),
        sa.Column("to_status", sa.String(length=32), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at", UtcTime(), nullable=False),
        sa.Column("entry", _BIG_ID, nullable=False),
        sa.CheckConstraint("actor <> '' and why <> ''", name=op.f("ck_transitions_says_who_and_why")),
        sa.ForeignKeyConstraint(["decision_id"], ["decisions.id"], name=op.f("fk_transitions_decision_id")),
        sa.ForeignKeyConstraint(["entry"], ["ledger_entries.entry"], name=op.f("fk_transitions_entry")),
        sa.PrimaryKeyConstraint("decision_id", "number", name=op.f("pk_transitions")),
        sa.UniqueConstraint("entry", name=op.f("uq_transitions_entry")),
    )
    op.create_table(
        "webhook_outbox",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("endpoint_id", sa.String(length=64), nullable=False),
        sa.Column("topic", sa.String(length=64), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), nullable=False),
        sa.Column("next_attempt_at", UtcTime(), nullable=True),
        sa.Column("delivered_at", UtcTime(), nullable=True),
        sa.Column("last_status", sa.SmallInteger(), nullable=True),
        sa.Column("last_problem", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["endpoint_id"], ["webhook_endpoints.id"], name=op.f("fk_webhook_outbox_endpoint_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_outbox")),
    )
    op.create_index(
        op.f("ix_webhook_outbox_endpoint_id_created_at"), "webhook_outbox", ["endpoint_id", "created_at"], unique=False
    )
    op.create_index(op.f("ix_webhook_outbox_next_attempt_at"), "webhook_outbox", ["next_attempt_at"], unique=False)
    op.create_table(
        "offers",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("applicant", sa.String(length=200), nullable=False),
        sa.Column("product", sa.String(length=64), nullable=False),
        sa.Column("amount", ExactDecimal(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("tenor_days", sa.Integer(), nullable=False),
        sa.Column("rate", ExactDecimal(), nullable=False),
        sa.Column("decision_id", sa.String(length=64), nullable=False),
        sa.Column("event_id", sa.String(length=64), nullable=True),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("expires_at", UtcTime(), nullable=False),
        sa.Column("closed_at", UtcTime(), nullable=True),
        sa.Column("entry", _BIG_ID, nullable=False),
        sa.CheckConstraint(
            "status in ('open', 'accepted', 'expired', 'withdrawn')", name=op.f("ck_offers_status_is_known")
        ),
        sa.ForeignKeyConstraint(["decision_id"], ["decisions.id"], name=op.f("fk_offers_decision_id")),
        sa.ForeignKeyConstraint(["entry"], ["ledger_entries.entry"], name=op.f("fk_offers_entry")),
        sa.ForeignKeyConstraint(["event_id"], ["events.id"], name=op.f("fk_offers_event_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_offers_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_offers")),
        sa.UniqueConstraint("entry", name=op.f("uq_offers_entry")),
        sa.UniqueConstraint("event_id", name=op.f("uq_offers_event_id")),
    )
    op.create_index(op.f("ix_offers_tenant_id_applicant"), "offers", ["tenant_id", "applicant"], unique=False)
    op.create_index(op.f("ix_offers_tenant_id_entry"), "offers", ["tenant_id", "entry"], unique=False)
    op.execute(
        sa.text("insert into ledger_head (id, origin, size, frontier) values (1, '', 0, :none)").bindparams(none=b"")
    )
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("update", "delete"):
            op.execute(_SQLITE_GUARDS.format(verb=verb))
    else:
        for statement in _POSTGRESQL_GUARD:
            op.execute(statement)

"""Facilities, financed evidence and archived policies: what the financing API decides by."""

import sqlalchemy as sa
from alembic import op

from coordinator.database.column_types import ExactDecimal, UtcTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the three tables; decisions that are there already have no facility, so nothing is counted as owed."""
    op.create_table(
        "facilities",
        sa.Column("decision_id", sa.String(length=64), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("applicant", sa.String(length=200), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("industry", sa.String(length=64), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("granted", ExactDecimal(), nullable=False),
        sa.Column("disbursed", ExactDecimal(), nullable=False),
        sa.Column("repaid", ExactDecimal(), nullable=False),
        sa.Column("watch", sa.String(length=16), nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.CheckConstraint("watch in ('active', 'warned', 'frozen')", name=op.f("ck_facilities_watch_is_known")),
        sa.ForeignKeyConstraint(["decision_id"], ["decisions.id"], name=op.f("fk_facilities_decision_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_facilities_tenant_id")),
        sa.PrimaryKeyConstraint("decision_id", name=op.f("pk_facilities")),
        sa.UniqueConstraint("tenant_id", "applicant", "number", name=op.f("uq_facilities_tenant_id_applicant_number")),
    )
    op.create_table(
        "financed_evidence",
        sa.Column("fingerprint", sa.LargeBinary(length=32), nullable=False),
        sa.Column("number", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("decision_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["decision_id"], ["decisions.id"], name=op.f("fk_financed_evidence_decision_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_financed_evidence_tenant_id")),
        sa.PrimaryKeyConstraint("fingerprint", "number", name=op.f("pk_financed_evidence")),
    )
    op.create_table(
        "policy_archives",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_policy_archives")),
    )

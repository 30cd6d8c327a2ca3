"""Quotas of owners, and counters of rate limits that replicas share"""

import sqlalchemy as sa
from alembic import op

import app.db.base
from migrations.indexes import create

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Runs first, because it commits. If it ran after other changes and failed, those would stay and break the next attempt.
    create("ix_patch_versions_owner_state", "patch_versions", ["owner", "state"])
    op.create_table(
        "owner_quotas",
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("patches", sa.BigInteger(), nullable=True),
        sa.Column("versions", sa.BigInteger(), nullable=True),
        sa.Column("drafts", sa.BigInteger(), nullable=True),
        sa.Column("ports", sa.BigInteger(), nullable=True),
        sa.Column("tokens", sa.BigInteger(), nullable=True),
        sa.Column("row_version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_owner_quotas")),
    )
    # Counters are worth nothing after a crash, and one that is written for many requests need not reach the log.
    op.create_table(
        "rate_windows",
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("hits", sa.BigInteger(), nullable=False),
        sa.Column("ends_at", app.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_rate_windows")),
        prefixes=["UNLOGGED"] if op.get_bind().dialect.name == "postgresql" else [],
    )


def downgrade() -> None:
    op.drop_index("ix_patch_versions_owner_state", "patch_versions")
    op.drop_table("rate_windows")
    op.drop_table("owner_quotas")

"""Versions that were purged: when, by whom and why, what became of their bytes; and an index that finds the same bytes again"""

import sqlalchemy as sa
from alembic import op

import app.db.base
from migrations.indexes import create

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Runs first, because it commits. If it ran after other changes and failed, those would stay and break the next attempt.
    create("ix_patch_versions_digest", "patch_versions", ["digest"])
    with op.batch_alter_table("patch_versions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("purged_at", app.db.base.UtcDateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("purged_by", sa.String(length=200), nullable=True))
        batch_op.add_column(sa.Column("purge_reason", sa.String(length=2000), nullable=True))
        batch_op.add_column(sa.Column("erasure", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("erased_at", app.db.base.UtcDateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_index("ix_patch_versions_digest", "patch_versions")
    with op.batch_alter_table("patch_versions", schema=None) as batch_op:
        for column in ("erased_at", "erasure", "purge_reason", "purged_by", "purged_at"):
            batch_op.drop_column(column)

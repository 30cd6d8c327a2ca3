"""Identity tokens that were exchanged, each once"""

import sqlalchemy as sa
from alembic import op

import app.db.base

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "used_identities",
        sa.Column("mark", sa.String(length=64), nullable=False),
        sa.Column("used_at", app.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=True),
        sa.Column("ends_at", app.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("mark", name=op.f("pk_used_identities")),
    )
    op.create_index(op.f("ix_used_identities_ends_at"), "used_identities", ["ends_at"])


def downgrade() -> None:
    op.drop_table("used_identities")

"""Facts about the installation, and quotas on waiting jobs"""

import sqlalchemy as sa
from alembic import op

import app.db.base

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "installation",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.Column("written_at", app.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_installation")),
    )
    op.add_column("owner_quotas", sa.Column("jobs", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("owner_quotas", "jobs")
    op.drop_table("installation")

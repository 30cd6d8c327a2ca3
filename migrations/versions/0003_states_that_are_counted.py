"""Indexes over the states of ports and materialisations, which metrics count and house-keeping looks through"""

from alembic import op

from migrations.indexes import create

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("ports", "materialisations"):
        create(f"ix_{table}_state", table, ["state"])


def downgrade() -> None:
    for table in ("materialisations", "ports"):
        op.drop_index(f"ix_{table}_state", table)

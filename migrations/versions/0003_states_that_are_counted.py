"""Indexes over the states of ports and materialisations, which metrics count and house-keeping looks through

Building one makes writers of its table wait: a second or two for a million ports, less than they are ready to wait.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("ports", "materialisations"):
        op.create_index(f"ix_{table}_state", table, ["state"])


def downgrade() -> None:
    for table in ("materialisations", "ports"):
        op.drop_index(f"ix_{table}_state", table)

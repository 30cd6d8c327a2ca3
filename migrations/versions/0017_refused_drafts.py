"""Refusals of drafts are remembered"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("patch_versions", sa.Column("refusal", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("patch_versions", "refusal")

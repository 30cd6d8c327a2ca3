"""Which token created or rotated each token"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tokens", sa.Column("made_by", sa.String(length=40), nullable=True))


def downgrade() -> None:
    op.drop_column("tokens", "made_by")

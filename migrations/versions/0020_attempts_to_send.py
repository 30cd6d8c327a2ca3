"""One attempt at a time to send an object, by a lease"""

import sqlalchemy as sa
from alembic import op

import app.db.base

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("pushed_objects", sa.Column("attempt", sa.String(length=64), nullable=True))
    op.add_column("pushed_objects", sa.Column("attempt_until", app.db.base.UtcDateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("pushed_objects", "attempt_until")
    op.drop_column("pushed_objects", "attempt")

"""When the last attempt at ingesting a release ended, as for every other row that a job advances"""

import sqlalchemy as sa
from alembic import op

import app.db.base

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("releases", sa.Column("finished_at", app.db.base.UtcDateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("releases", "finished_at")

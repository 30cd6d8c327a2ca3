"""More identity fields of files of releases by reference, and the path of a damaged file"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("releases", schema=None) as batch_op:
        batch_op.add_column(sa.Column("identities", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("damaged_path", sa.String(length=4096), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("releases", schema=None) as batch_op:
        batch_op.drop_column("damaged_path")
        batch_op.drop_column("identities")

"""Families are seen by whom they are granted to"""

import sqlalchemy as sa
from alembic import op

import app.db.base

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "family_grants",
        sa.Column("family_id", sa.String(length=40), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("created_at", app.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["family_id"], ["families.id"], name=op.f("fk_family_grants_family_id_families")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_family_grants")),
        sa.UniqueConstraint("family_id", "owner", name=op.f("uq_family_grants_family_id")),
    )
    with op.batch_alter_table("family_grants", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_family_grants_owner"), ["owner"], unique=False)
    # Until now everybody saw every family; what they see they keep.
    op.execute(
        "INSERT INTO family_grants (id, created_at, family_id, owner)"
        " SELECT 'grt_' || substr(id, 5), created_at, id, '*' FROM families"
    )


def downgrade() -> None:
    op.drop_table("family_grants")

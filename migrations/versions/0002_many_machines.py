"""What many machines need: workers, materialisations, uploads that go straight to the object store

A migration runs before the previous version of the code stops: add first, fill, remove in a later release.
"""

import sqlalchemy as sa
from alembic import op

import app.db.base

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("class_name", sa.String(length=40), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(length=40), nullable=False),
        sa.Column("url", sa.String(length=500), nullable=True),
        sa.Column("device", sa.String(length=200), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("started_at", app.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.Column("seen_at", app.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    with op.batch_alter_table("workers", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_workers_class_name"), ["class_name"], unique=False)
        batch_op.create_index(batch_op.f("ix_workers_seen_at"), ["seen_at"], unique=False)

    op.create_table(
        "materialisations",
        sa.Column("port_id", sa.String(length=40), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("target", sa.String(length=1100), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("problem", sa.JSON(), nullable=True),
        sa.Column("finished_at", app.db.base.UtcDateTime(timezone=True), nullable=True),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("created_at", app.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.Column("row_version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["port_id"], ["ports.id"], name=op.f("fk_materialisations_port_id_ports")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_materialisations")),
        sa.UniqueConstraint("port_id", "target", name=op.f("uq_materialisations_port_id")),
    )
    with op.batch_alter_table("materialisations", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_materialisations_owner"), ["owner"], unique=False)

    with op.batch_alter_table("patch_versions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("multiparts", sa.JSON(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("patch_versions", schema=None) as batch_op:
        batch_op.drop_column("multiparts")
    op.drop_table("materialisations")
    op.drop_table("workers")

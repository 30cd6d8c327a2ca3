"""Tenants: tokens that expire, families that are granted, events that say by which token and from where, and cannot be changed

A migration runs before the previous version of the code stops: add first, fill, remove in a later release.
"""

import sqlalchemy as sa
from alembic import op

import app.db.base

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


REFUSE_ON_SQLITE = "CREATE TRIGGER events_no_{0} BEFORE {0} ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END"
REFUSE_ON_POSTGRESQL = """
CREATE FUNCTION events_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'events are append-only'; END $$
"""


def upgrade() -> None:
    with op.batch_alter_table("tokens", schema=None) as batch_op:
        batch_op.add_column(sa.Column("expires_at", app.db.base.UtcDateTime(timezone=True), nullable=True))
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.add_column(sa.Column("family", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("token", sa.String(length=200), nullable=True))
        batch_op.add_column(sa.Column("address", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("request", sa.String(length=64), nullable=True))
    # A later migration that makes the table anew, as batches on SQLite do, must make these anew too.
    if op.get_bind().dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(REFUSE_ON_SQLITE.format(change))
    else:
        op.execute(REFUSE_ON_POSTGRESQL)
        op.execute(
            "CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events"
            " FOR EACH STATEMENT EXECUTE FUNCTION events_append_only()"
        )

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
    if op.get_bind().dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(f"DROP TRIGGER events_no_{change}")
    else:
        op.execute("DROP TRIGGER events_append_only ON events")
        op.execute("DROP FUNCTION events_append_only()")
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.drop_column("request")
        batch_op.drop_column("address")
        batch_op.drop_column("token")
        batch_op.drop_column("family")
    with op.batch_alter_table("tokens", schema=None) as batch_op:
        batch_op.drop_column("expires_at")

"""Lists of one owner, newest first, straight from an index

Without these, a page of one team's patches reads everybody's from the newest on until it has found enough (10,000 rows for 50
where 200 teams have 100,000), and a page of its ports sorts all that the team has.
"""

from alembic import op

from migrations.indexes import create

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INDICES = {
    "ix_patches_owner_id": ("patches", ["owner", "id"]),
    "ix_ports_owner_id": ("ports", ["owner", "id"]),
    "ix_ports_release_id_id": ("ports", ["release_id", "id"]),
    "ix_events_owner_id": ("events", ["owner", "id"]),
}


def upgrade() -> None:
    for name, (table, columns) in INDICES.items():
        create(name, table, columns)


def downgrade() -> None:
    for name, (table, _) in INDICES.items():
        op.drop_index(name, table)

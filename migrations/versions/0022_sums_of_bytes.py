"""Indexes for summing bytes of versions and copied releases and for counting damaged releases"""

from alembic import op

from migrations.indexes import create

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

INDICES = {
    "ix_patch_versions_owner_state_total_bytes": ("patch_versions", ["owner", "state", "total_bytes"], None),
    "ix_patch_versions_state_total_bytes": ("patch_versions", ["state", "total_bytes"], None),
    "ix_releases_copied_total_bytes": ("releases", ["copied", "total_bytes"], None),
    "ix_releases_damaged_path": ("releases", ["damaged_path"], "damaged_path IS NOT NULL"),
}


def upgrade() -> None:
    for name, (table, columns, where) in INDICES.items():
        create(name, table, columns, where)


def downgrade() -> None:
    for name, (table, _, _) in INDICES.items():
        op.drop_index(name, table)

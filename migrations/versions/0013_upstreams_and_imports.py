"""Upstreams with encrypted tokens; where a release was pulled from, and what is still to be pulled; imports of patches"""

import sqlalchemy as sa
from alembic import op

import app.db.base

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "upstreams",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("endpoint", sa.String(length=500), nullable=False),
        sa.Column("token", sa.String(length=2000), nullable=True),
        sa.Column("private_hosts", sa.JSON(), nullable=False),
        sa.Column("http_hosts", sa.JSON(), nullable=False),
        sa.Column("publishers", sa.Boolean(), nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("created_at", app.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.Column("row_version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upstreams")),
        sa.UniqueConstraint("name", name=op.f("uq_upstreams_name")),
    )
    with op.batch_alter_table("releases", schema=None) as batch_op:
        batch_op.add_column(sa.Column("origin", sa.JSON(), nullable=True))
    op.create_table(
        "pulls",
        sa.Column("release_id", sa.String(length=40), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["release_id"], ["releases.id"], name=op.f("fk_pulls_release_id_releases")),
        sa.PrimaryKeyConstraint("release_id", name=op.f("pk_pulls")),
    )
    op.create_table(
        "imports",
        sa.Column("batch", sa.String(length=40), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=89), nullable=False),
        sa.Column("named", sa.Boolean(), nullable=False),
        sa.Column("upstream", sa.String(length=64), nullable=False),
        sa.Column("repository", sa.String(length=96), nullable=False),
        sa.Column("revision", sa.String(length=200), nullable=False),
        sa.Column("commit", sa.String(length=40), nullable=True),
        sa.Column("trained_on", sa.String(length=64), nullable=True),
        sa.Column("asked_by", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.String(length=40), nullable=True),
        sa.Column("facts", sa.JSON(), nullable=True),
        sa.Column("problem", sa.JSON(), nullable=True),
        sa.Column("finished_at", app.db.base.UtcDateTime(timezone=True), nullable=True),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("created_at", app.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.Column("row_version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["patch_versions.id"], name=op.f("fk_imports_version_id_patch_versions")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imports")),
    )
    op.create_index("ix_imports_batch", "imports", ["batch", "id"])
    op.create_index("ix_imports_owner", "imports", ["owner", "id"])
    op.create_index("ix_imports_state", "imports", ["state"])
    op.create_index("ix_imports_origin", "imports", ["owner", "upstream", "repository"])


def downgrade() -> None:
    op.drop_table("imports")
    op.drop_table("pulls")
    with op.batch_alter_table("releases", schema=None) as batch_op:
        batch_op.drop_column("origin")
    op.drop_table("upstreams")

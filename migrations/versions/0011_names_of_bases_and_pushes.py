"""What others call our bases, what a patch is trained on by default, and what is pushed but no version yet"""

import sqlalchemy as sa
from alembic import op

import app.db.base

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "base_names",
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=400), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("revision", sa.String(length=100), nullable=True),
        sa.Column("family_id", sa.String(length=40), nullable=False),
        sa.Column("release_id", sa.String(length=40), nullable=True),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("created_at", app.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["family_id"], ["families.id"], name=op.f("fk_base_names_family_id_families")),
        sa.ForeignKeyConstraint(["release_id"], ["releases.id"], name=op.f("fk_base_names_release_id_releases")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_base_names")),
        sa.UniqueConstraint("key", name=op.f("uq_base_names_key")),
    )
    op.create_index(op.f("ix_base_names_family_id"), "base_names", ["family_id"])
    op.create_table(
        "pushes",
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("repository", sa.String(length=160), nullable=False),
        sa.Column("revision", sa.String(length=64), nullable=False),
        sa.Column("patch_id", sa.String(length=40), nullable=True),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("dropped", sa.JSON(), nullable=False),
        sa.Column("parent", sa.Integer(), nullable=True),
        sa.Column("waits", sa.JSON(), nullable=True),
        sa.Column("touched_at", app.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("created_at", app.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.Column("row_version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["patch_id"], ["patches.id"], name=op.f("fk_pushes_patch_id_patches")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pushes")),
        sa.UniqueConstraint("repository", "revision", name=op.f("uq_pushes_repository")),
    )
    op.create_index(op.f("ix_pushes_owner"), "pushes", ["owner"])
    op.create_index(op.f("ix_pushes_touched_at"), "pushes", ["touched_at"])
    op.create_table(
        "pushed_objects",
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("repository", sa.String(length=160), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("charged", sa.BigInteger(), nullable=False),
        sa.Column("session", sa.String(length=64), nullable=True),
        sa.Column("staged", sa.String(length=64), nullable=True),
        sa.Column("multipart", sa.String(length=1024), nullable=True),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("created_at", app.db.base.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pushed_objects")),
    )
    op.create_index("ix_pushed_objects_repository_digest", "pushed_objects", ["repository", "digest"])
    op.create_index(op.f("ix_pushed_objects_digest"), "pushed_objects", ["digest"])
    op.create_index(op.f("ix_pushed_objects_owner"), "pushed_objects", ["owner"])
    with op.batch_alter_table("patches", schema=None) as batch_op:
        batch_op.add_column(sa.Column("trained_on", sa.String(length=64), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("patches", schema=None) as batch_op:
        batch_op.drop_column("trained_on")
    op.drop_table("pushed_objects")
    op.drop_table("pushes")
    op.drop_table("base_names")

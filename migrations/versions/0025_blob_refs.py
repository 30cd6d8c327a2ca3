"""References: which rows keep which bytes"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

# Lists of files in JSON, as rows; a digest that a row lists twice is one reference.
FILES = {"sqlite": "json_each(v.files) AS f", "postgresql": "json_array_elements(v.files) AS f(value)"}
FIELD = {"sqlite": "json_extract(f.value, '$.{}')", "postgresql": "f.value ->> '{}'"}
PULLED = {"sqlite": "json_each(p.files) AS f", "postgresql": "json_array_elements(p.files) AS f(value)"}
ITEM = {"sqlite": "json_extract(f.value, '$[{}]')", "postgresql": "f.value ->> {}"}


def upgrade() -> None:
    op.create_table(
        "blob_refs",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("noun", sa.String(length=16), nullable=False),
        sa.Column("row_id", sa.String(length=40), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("digest", "noun", "row_id", name=op.f("pk_blob_refs")),
    )
    with op.batch_alter_table("blob_refs", schema=None) as batch_op:
        batch_op.create_index("ix_blob_refs_noun_row_id", ["noun", "row_id"], unique=False)
    # What is written meanwhile by the version that still runs, and the files of copied releases, which only their manifests list,
    # are registered by the first garbage collection. These statements read rows and lock none.
    dialect = op.get_context().dialect.name
    digest, size = FIELD[dialect].format("sha256"), FIELD[dialect].format("size")
    register(
        f"{digest}, CASE v.state WHEN 'draft' THEN 'draft' ELSE 'version' END, v.id, v.owner, CAST({size} AS BIGINT)",
        f"patch_versions AS v CROSS JOIN {FILES[dialect]} WHERE v.state IN ('draft', 'published', 'yanked')",
    )
    register(
        "digest, 'pushed file', id, owner, size", "pushed_objects WHERE kind = 'file' AND staged IS NOT NULL"
    )  # fmt: skip
    register(
        "manifest, 'release', id, owner, CAST(NULL AS BIGINT)", "releases WHERE manifest IS NOT NULL AND NOT copied"
    )  # fmt: skip
    digest, size = ITEM[dialect].format(2), ITEM[dialect].format(1)
    register(
        f"{digest}, 'download', p.release_id, 'registry', CAST({size} AS BIGINT)",
        f"pulls AS p JOIN releases AS r ON r.id = p.release_id CROSS JOIN {PULLED[dialect]}"
        f" WHERE r.state = 'ingesting' AND {digest} IS NOT NULL",
    )


def register(columns: str, rows: str) -> None:
    op.execute(
        f"INSERT INTO blob_refs (digest, noun, row_id, owner, size) SELECT {columns} FROM {rows} ON CONFLICT DO NOTHING"  # noqa: S608
    )


def downgrade() -> None:
    op.drop_table("blob_refs")

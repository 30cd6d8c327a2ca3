"""States, publications, tombstones and references between rows as constraints of the schema"""

from alembic import op

from migrations.constraints import Check, Reference, add, drop, require_fulfilled
from migrations.indexes import create

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

PARENTS = {"uq_patch_versions_id_patch_id": ["id", "patch_id"], "uq_patch_versions_id_owner": ["id", "owner"]}
STATES = {
    "releases": "'ingesting', 'ready', 'rejected', 'yanked'",
    "patch_versions": "'discarded', 'draft', 'published', 'purged', 'yanked'",
    "ports": "'checking', 'held', 'purged', 'ready', 'refused', 'retired'",
    "materialisations": "'cancelled', 'done', 'failed', 'purged', 'queued', 'running'",
    "imports": "'cancelled', 'imported', 'present', 'queued', 'refused', 'running'",
}
CHECKS = [
    *(Check(table, f"ck_{table}_state", f"state IN ({states})", "its state is none") for table, states in STATES.items()),
    Check(
        "releases", "ck_releases_manifest", "state NOT IN ('ready', 'yanked') OR manifest IS NOT NULL",
        "a ready or yanked release has a manifest",
    ),
    Check(
        "patch_versions", "ck_patch_versions_unpublished",
        "state NOT IN ('draft', 'discarded') OR number IS NULL AND published_digest IS NULL AND published_at IS NULL",
        "a draft has no number, digest or moment of publication",
    ),
    Check(
        "patch_versions", "ck_patch_versions_published",
        "state NOT IN ('published', 'yanked') OR number IS NOT NULL AND published_digest IS NOT NULL"
        " AND published_digest = digest AND published_at IS NOT NULL AND facts IS NOT NULL"
        " AND CAST(facts AS TEXT) <> 'null'",
        "a published version has a number, its own digest, a moment of publication and facts",
    ),
    Check(
        "patch_versions", "ck_patch_versions_purged",
        "state <> 'purged' OR purged_at IS NOT NULL AND (number IS NULL"
        " OR erasure IS NOT NULL AND CAST(erasure AS TEXT) <> 'null'"
        " AND published_digest IS NOT NULL AND published_digest = digest)",
        "a purged version has the moment, what became of its bytes, and its digest",
    ),
    Check("ports", "ck_ports_ready", "state <> 'ready' OR ready_at IS NOT NULL", "a ready port has the moment it became so"),
    Check(
        "ports", "ck_ports_forced", "state NOT IN ('ready', 'held') OR NOT forced OR reason IS NOT NULL AND reason <> ''",
        "a forced port has a reason",
    ),
]  # fmt: skip
REFERENCES = [
    Reference(
        "aliases", "fk_aliases_version_of_patch", ["version_id", "patch_id"], "patch_versions", ["id", "patch_id"],
        "an alias selects a version of its own patch",
    ),
    Reference(
        "ports", "fk_ports_version_of_owner", ["version_id", "owner"], "patch_versions", ["id", "owner"],
        "a port belongs to the owner of its version",
    ),
]  # fmt: skip


def upgrade() -> None:
    require_fulfilled([*CHECKS, *REFERENCES])
    for name, columns in PARENTS.items():
        create(name, "patch_versions", columns, unique=True)
    add([*CHECKS, *REFERENCES])


def downgrade() -> None:
    drop([*REFERENCES, *CHECKS])
    for name in PARENTS:
        op.drop_index(name, "patch_versions")

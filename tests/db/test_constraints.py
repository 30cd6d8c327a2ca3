"""The database refuses rows that contradict themselves or belong to rows that they should not."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from app.db.base import Base, now
from app.db.engine import make_engine
from app.db.schema import upgrade
from app.domain.states import MOVES
from tests.support.old_version import rows

TABLES = {
    "release": "releases", "version": "patch_versions", "port": "ports", "materialisation": "materialisations",
    "import": "imports",
}  # fmt: skip
DRAFT = "state = 'draft', number = NULL, published_digest = NULL, published_at = NULL"
# Each change follows those before "; " that are allowed; the constraint that refuses it.
REFUSED = {
    **{f"UPDATE {table} SET state = 'lost'": f"ck_{table}_state" for table in TABLES.values()},
    "UPDATE releases SET manifest = NULL": "ck_releases_manifest",
    "UPDATE releases SET state = 'yanked', manifest = NULL": "ck_releases_manifest",
    "UPDATE patch_versions SET number = NULL": "ck_patch_versions_published",
    "UPDATE patch_versions SET published_at = NULL": "ck_patch_versions_published",
    "UPDATE patch_versions SET published_digest = NULL": "ck_patch_versions_published",
    "UPDATE patch_versions SET digest = 'other'": "ck_patch_versions_published",
    "UPDATE patch_versions SET facts = NULL, state = 'yanked'": "ck_patch_versions_published",
    "UPDATE patch_versions SET facts = 'null'": "ck_patch_versions_published",
    "UPDATE patch_versions SET state = 'discarded'": "ck_patch_versions_unpublished",
    f"UPDATE patch_versions SET {DRAFT}; UPDATE patch_versions SET number = 77": "ck_patch_versions_unpublished",
    f"UPDATE patch_versions SET {DRAFT}; UPDATE patch_versions SET state = 'purged'": "ck_patch_versions_purged",
    "UPDATE patch_versions SET state = 'purged', purged_at = published_at": "ck_patch_versions_purged",
    "UPDATE patch_versions SET state = 'purged', erasure = '{}'": "ck_patch_versions_purged",
    "UPDATE patch_versions SET state = 'purged', purged_at = published_at, erasure = 'null'": "ck_patch_versions_purged",
    "UPDATE ports SET state = 'ready'": "ck_ports_ready",
    "UPDATE ports SET forced = true": "ck_ports_forced",
    "UPDATE ports SET forced = true, reason = ''": "ck_ports_forced",
    "UPDATE aliases SET patch_id = (SELECT id FROM patches WHERE name = 'other')": "fk_aliases_version_of_patch",
    "UPDATE ports SET owner = 'rival'": "fk_ports_version_of_owner",
}  # fmt: skip
ALLOWED = [
    f"UPDATE patch_versions SET {DRAFT}; UPDATE patch_versions SET state = 'purged', purged_at = created_at",
    "UPDATE patch_versions SET state = 'purged', purged_at = published_at, erasure = '{}'",
    "UPDATE patch_versions SET state = 'yanked'",
    "UPDATE ports SET state = 'ready', ready_at = created_at, forced = true, reason = 'a test'",
    "UPDATE releases SET state = 'rejected', manifest = NULL",
    *(f"UPDATE {TABLES[noun]} SET state = '{state}'" for noun in ("materialisation", "import") for state in MOVES[noun]),
]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A database with a row in each table, which tests change in transactions that are rolled back."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('constraints') / 'a.db'}"
    else:
        url = str(request.getfixturevalue("server").create())
    upgrade(url)
    engine, made, tables = make_engine(url), rows("one", "plt_one"), Base.metadata.tables
    port, version, patch = made["ports"], made["patch_versions"], made["patches"]
    job = {"created_at": now(), "owner": "acme", "state": "queued"}
    made["materialisations"] = {"id": "mat_1", "port_id": port["id"], "target": "s3://bucket/x", **job}
    made["imports"] = {
        "id": "imp_1", "batch": "imp_1", "name": "tone", "named": True, "upstream": "hf", "repository": "a/b", "revision": "main",
        "asked_by": {}, "version_id": version["id"], **job,
    }  # fmt: skip
    with engine.begin() as connection:
        for table in Base.metadata.sorted_tables:
            if table.name in made:
                connection.execute(table.insert().values(made[table.name]))
        connection.execute(tables["patches"].insert().values({**patch, "id": "pat_other", "name": "other"}))
    yield engine
    engine.dispose()


@pytest.mark.parametrize("change", REFUSED)
def test_row_that_breaks_a_constraint_is_refused(engine: Engine, change: str) -> None:
    *before, last = change.split("; ")
    with engine.connect() as connection:
        for statement in before:
            connection.execute(text(statement))
        with pytest.raises(IntegrityError) as refused:
            connection.execute(text(last))
    # SQLite does not say which foreign key it was.
    assert REFUSED[change] in str(refused.value) or "FOREIGN KEY constraint failed" in str(refused.value)


@pytest.mark.parametrize("change", ALLOWED)
def test_row_that_fulfils_the_constraints_is_accepted(engine: Engine, change: str) -> None:
    with engine.connect() as connection:
        for statement in change.split("; "):
            connection.execute(text(statement))

"""An upgrade while the version before runs: its statements go on during it and after it, and the new version serves its rows."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Inspector, NullPool, create_engine, inspect, select, text

from app.db.base import Base
from app.db.schema import alembic_config, current, head, upgrade
from app.domain.errors import DomainError
from app.services.operations import garbage_collection
from tests.support.old_version import REVISION, OldVersion, migrate
from tests.support.postgres import Postgres
from tests.support.registry import Caller, Service
from tests.support.service_process import invoke, until


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database as the version before had it."""
    if request.param == "sqlite":
        (tmp_path / "service/data").mkdir(parents=True)
        found = f"sqlite:///{tmp_path / 'service/data/portllm.db'}"
    else:
        found = str(request.getfixturevalue("server").create())
    migrate(found)
    return found


def test_version_before_keeps_working_during_and_after_an_upgrade(url: str, tmp_path: Path) -> None:
    """Under load, by transactions over all its tables: none fails during `portllm db upgrade` or after it."""
    old = OldVersion(url)
    with old.working():
        until(lambda: len(old.marks) >= 10 or old.errors)
        upgraded = invoke("db", "upgrade", "--json", PORTLLM_DATABASE_URL=url)
        so_far = len(old.marks)
        # More than five on each connection: by then psycopg has prepared the statements anew, and the server their plans.
        until(lambda: len(old.marks) >= so_far + 20 or old.errors)
    assert old.errors == []
    assert upgraded.exit_code == 0, upgraded.output
    assert current(old.engine) == head()
    with old.engine.begin() as connection:
        rows = old.everything(connection, "last", "plt_last")
    old.engine.dispose()

    service = Service(tmp_path / "service", tmp_path, database_url=url)
    service.data.mkdir(exist_ok=True)
    (service.data / "admin-token").write_text("plt_last")
    with service.running():
        assert service.admin.get("/whoami").json()["owner"] == "admin"
        for mark in ("last", old.marks[0], old.marks[-1]):
            _is_served(service.admin, mark)
        port = service.admin.get(f"/ports/{rows['ports']['id']}").json()
        assert (port["state"], port["release"]) == ("held", "v1")
        garbage_collection.collect(service.runtime.read, service.runtime.write)
        unregistered = "SELECT v.id FROM patch_versions v LEFT JOIN blob_refs b ON b.row_id = v.id WHERE b.row_id IS NULL"
        assert service.rows(unregistered) == [], "what the version before wrote last keeps its bytes too"


def _is_served(admin: Caller, mark: str) -> None:
    """What the version before wrote is there, whole."""
    assert admin.get(f"/families/fam-{mark}").json()["description"] == "old"
    assert admin.get(f"/families/fam-{mark}/releases/v1").json()["state"] == "ready"
    assert admin.get(f"/patches/acme/tone-{mark}").json()["aliases"]["prod"] == 1
    version = admin.get(f"/patches/acme/tone-{mark}/versions/1").json()
    assert (version["state"], version["trained_on"]) == ("published", "v1")


def test_upgrade_blocked_by_a_long_transaction_fails_and_changes_nothing(server: Postgres) -> None:
    """Whoever holds a table for long makes `portllm db upgrade` fail with a sentence; nothing is changed, and requests go on."""
    url = server.create()
    migrate(url)
    old, before = OldVersion(url), shape(url)
    with old.engine.connect() as busy:
        busy.execute(text("SELECT count(*) FROM patch_versions"))
        with old.working(), pytest.raises(DomainError) as refused:
            upgrade(url, seconds=1.5)
        assert old.errors == []
    assert refused.value.code == "database.held"
    assert "was not made" in str(refused.value)
    assert (shape(url), current(old.engine)) == (before, REVISION)
    upgrade(url)
    assert current(old.engine) == head()
    old.engine.dispose()


# -- what a migration may do, looked at in the database that it made


def shape(url: str) -> dict[str, dict[str, Any]]:
    """Of every table of ours: columns, and what rows must fulfil."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        found = inspect(connection)
        return {table: _shape(found, table) for table in found.get_table_names() if table in Base.metadata.tables}


def _shape(found: Inspector, table: str) -> dict[str, Any]:
    columns = {c["name"]: (repr(c["type"]), c["nullable"], c["default"]) for c in found.get_columns(table)}
    unique = {tuple(index["column_names"]) for index in found.get_indexes(table) if index["unique"]}
    unique |= {tuple(constraint["column_names"]) for constraint in found.get_unique_constraints(table)}
    foreign = {tuple(key["constrained_columns"]) for key in found.get_foreign_keys(table)}
    checks = {check["sqltext"] for check in found.get_check_constraints(table)}
    return {
        "columns": columns, "key": found.get_pk_constraint(table)["constrained_columns"], "unique": unique, "foreign": foreign,
        "checks": checks, "indexes": {tuple(index["column_names"]) for index in found.get_indexes(table)},
    }  # fmt: skip


# Migrations whose constraints the version before fulfils, see `test_migrations.CONSTRAINS`.
CONSTRAINING = {"0023"}


def takes_away(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> list[str]:
    """What the version before would miss, or could not fulfil."""
    found = [f"table {table} is gone" for table in before.keys() - after.keys()]
    for table in before.keys() & after.keys():
        old, new = before[table], after[table]
        for name, column in old["columns"].items():
            if new["columns"].get(name) != column:
                found.append(f"{table}.{name} was {column} and is {new['columns'].get(name)}")
        for name in new["columns"].keys() - old["columns"].keys():
            _, nullable, default = new["columns"][name]
            if not nullable and default is None:
                found.append(f"{table}.{name} is new, and must be given")
        kinds = ("key", "unique", "foreign", "checks")
        found += [f"{table}: {kind} was {old[kind]} and is {new[kind]}" for kind in kinds if new[kind] != old[kind]]
        if old["indexes"] - new["indexes"]:
            found.append(f"{table}: lost indexes {old['indexes'] - new['indexes']}")
    return sorted(found)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_every_migration_only_adds(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """From each revision to the next: nothing is gone, narrower or asked for that the version before does not give."""
    url = f"sqlite:///{tmp_path / 'a.db'}" if kind == "sqlite" else request.getfixturevalue("server").create()
    revisions = [script.revision for script in ScriptDirectory.from_config(alembic_config("")).walk_revisions()][::-1]
    shapes = []
    for revision in revisions:
        command.upgrade(alembic_config(url), revision)
        shapes.append(shape(url))
    assert shapes[-1].keys() == Base.metadata.tables.keys()
    found = {revision: takes_away(*pair) for revision, pair in zip(revisions[1:], itertools.pairwise(shapes), strict=True)}
    constrained = {revision: found.pop(revision) for revision in CONSTRAINING}
    assert not any(found.values()), found
    assert all(re.match(r"\w+: (unique|foreign|checks) was", line) for lines in constrained.values() for line in lines)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DROP TABLE lineage_samples", "table lineage_samples is gone"),
        ("ALTER TABLE families RENAME COLUMN description TO about", "families.description was"),
        ("ALTER TABLE families ADD COLUMN more VARCHAR", ""),
        ("ALTER TABLE families ADD COLUMN more VARCHAR NOT NULL DEFAULT ''", ""),
        ("ALTER TABLE families ADD COLUMN more VARCHAR NOT NULL", "families.more is new"),
        ("ALTER TABLE patches ALTER COLUMN name TYPE VARCHAR(10)", "patches.name was"),
        ("ALTER TABLE releases ALTER COLUMN manifest SET NOT NULL", "releases.manifest was"),
        ("CREATE UNIQUE INDEX one_source ON releases (source)", "releases: unique was"),
        ("CREATE INDEX by_source ON releases (source)", ""),
        ("ALTER TABLE ports ADD CONSTRAINT held CHECK (state = 'held')", "ports: checks was"),
        ("ALTER TABLE ports ADD CONSTRAINT o FOREIGN KEY (owner) REFERENCES families (name)", "ports: foreign was"),
        ("DROP INDEX ix_tokens_owner", "tokens: lost indexes"),
    ],
)
def test_migration_that_removes_something_is_found(previous: str, change: str, said: str) -> None:
    """The check above finds each kind of change that would."""
    before = shape(previous)
    engine = create_engine(previous, poolclass=NullPool)
    with engine.connect() as connection, connection.begin() as transaction:
        connection.execute(text(change))
        found = inspect(connection)
        after = {table: _shape(found, table) for table in found.get_table_names() if table in Base.metadata.tables}
        transaction.rollback()
    if said:
        assert any(sentence.startswith(said) for sentence in takes_away(before, after))
    else:
        assert takes_away(before, after) == []


@pytest.fixture(scope="module")
def previous(server: Postgres) -> str:
    """A database as the version before had it; only to be read, or changed in a transaction that is rolled back."""
    url = server.create()
    migrate(url)
    return url


# -- constraints that an upgrade adds


BROKEN = {
    "state": ("UPDATE patch_versions SET state = 'lost'", "patch_versions ver_"),
    "published": ("UPDATE patch_versions SET number = NULL", "a published version has a number"),
    "manifest": ("UPDATE releases SET manifest = NULL", "a ready or yanked release has a manifest"),
    "alias": ("UPDATE aliases SET name = id, patch_id = (SELECT max(id) FROM patches WHERE id <> patch_id)", "its own patch"),
    "port": ("UPDATE ports SET owner = 'rival'", "the owner of its version"),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_upgrade_of_rows_that_break_a_constraint_reports_them_and_changes_nothing(url: str, broken: str) -> None:
    """The upgrade names the rows; once they are corrected, it succeeds, and every row is as it was."""
    change, said = BROKEN[broken]
    old = OldVersion(url)
    command.upgrade(alembic_config(url), "0022")
    with old.engine.begin() as connection:
        old.everything(connection, "one")
        old.everything(connection, "two")
    correct = contents(old)
    with old.engine.begin() as connection:
        connection.execute(text(change))
    damaged, before = contents(old), shape(url)
    upgraded = invoke("db", "upgrade", "--json", PORTLLM_DATABASE_URL=url)
    assert upgraded.exit_code == 1
    assert '"database.rows"' in upgraded.output
    assert said in upgraded.output
    assert (contents(old), shape(url), current(old.engine)) == (damaged, before, "0022")
    with old.engine.begin() as connection:
        for table in ("aliases", "ports", "releases", "patch_versions"):
            for row in correct[table]:
                connection.execute(old.table(table).update().where(old.table(table).c.id == row["id"]).values(row))
    upgrade(url)
    assert contents(old) == correct
    command.downgrade(alembic_config(url), "0022")
    assert (contents(old), shape(url)) == (correct, before)
    upgrade(url)
    assert contents(old) == correct
    old.engine.dispose()


def contents(old: OldVersion) -> dict[str, list[dict[str, Any]]]:
    """All rows of the version before's tables."""
    with old.engine.begin() as connection:
        return {table.name: sorted(map(dict, connection.execute(select(*table.c)).mappings()), key=repr) for table in old.tables}

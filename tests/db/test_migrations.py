"""Migrations: one chain that makes what the models say, on a fresh database and back, beside the engine's own tables."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from dbos import run_dbos_database_migrations
from sqlalchemy import NullPool, create_engine, inspect, text

import migrations
from app.db.base import Base
from app.db.locks import MIGRATIONS, key_of
from app.db.schema import alembic_config, head, known, upgrade
from app.domain.errors import DomainError
from tests.support.postgres import Postgres
from tests.support.service_process import environment, until

VERSIONS = sorted((Path(migrations.__file__).parent / "versions").glob("*.py"))
# What takes something away from the version that still runs.
TIGHTENING = {
    "drop_table", "drop_column", "drop_index", "drop_constraint", "rename_table", "alter_column", "create_check_constraint",
    "create_unique_constraint", "create_foreign_key", "create_exclude_constraint",
}  # fmt: skip


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'a.db'}"
    return str(request.getfixturevalue("server").create())


def schema(url: str) -> dict[str, str]:
    """Columns, indexes and constraints of every table that lies where ours do, but Alembic's own, by name."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        found = inspect(connection)
        tables = [name for name in found.get_table_names() if not name.startswith("alembic_")]
        look = (
            found.get_columns,
            found.get_indexes,
            found.get_unique_constraints,
            found.get_foreign_keys,
            found.get_pk_constraint,
            found.get_check_constraints,
        )
        shown = {table: repr([sorted(map(str, asked)) if (asked := ask(table)) else [] for ask in look]) for table in tables}
        return {table: re.sub(r" object at 0x[0-9a-f]+", "", text) for table, text in shown.items()}


def test_models_and_migrations_agree(url: str) -> None:
    """A fresh database that was migrated lacks nothing that the models have, and has nothing that they lack."""
    upgrade(url)
    assert set(Base.metadata.tables) == set(schema(url))
    command.check(alembic_config(url))


def test_check_constraints_of_models_and_migrations_are_the_same(
    url: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Alembic's comparison leaves out CHECK constraints: those of a migrated database are those that the models make."""
    upgrade(url)
    fresh = f"sqlite:///{tmp_path / 'b.db'}" if url.startswith("sqlite") else request.getfixturevalue("server").create()
    Base.metadata.create_all(create_engine(fresh, poolclass=NullPool))
    assert checks(url) == checks(fresh)
    assert {name for table in checks(url).values() for name in table} >= {"ck_ports_state", "ck_patch_versions_published"}


def checks(url: str) -> dict[str, dict[str, str]]:
    with create_engine(url, poolclass=NullPool).connect() as connection:
        found = inspect(connection)
        return {
            table: {check["name"]: check["sqltext"] for check in found.get_check_constraints(table)}
            for table in Base.metadata.tables
        }


def test_downgrade_leaves_nothing_and_upgrade_restores_the_schema(url: str) -> None:
    """All the way back leaves nothing of ours, and up again gives the same schema."""
    upgrade(url)
    made = schema(url)
    command.downgrade(alembic_config(url), "base")
    assert schema(url) == {}
    upgrade(url)
    assert schema(url) == made
    upgrade(url)
    command.check(alembic_config(url))


def test_migrations_do_not_touch_the_engines_tables(url: str) -> None:
    """DBOS shares our database: our migrations neither see its tables nor take their names."""
    run_dbos_database_migrations(url)
    theirs = schema(url)
    assert ("workflow_status" in theirs) == url.startswith("sqlite")
    upgrade(url)
    command.check(alembic_config(url))
    assert not set(theirs) & set(Base.metadata.tables)
    command.downgrade(alembic_config(url), "base")
    assert schema(url) == theirs


def test_migrations_are_one_chain() -> None:
    """One head and one base: there is no second history."""
    script = ScriptDirectory.from_config(alembic_config(""))
    assert len(script.get_heads()) == len(script.get_bases()) == 1


def test_files_are_numbered_by_their_revisions() -> None:
    """What a start reads off their names, without Alembic, is what Alembic says."""
    script = ScriptDirectory.from_config(alembic_config(""))
    assert head() == script.get_current_head()
    assert known() == {found.revision for found in script.walk_revisions()}


def test_a_database_that_is_up_to_date_costs_no_alembic(tmp_path: Path) -> None:
    """The second start only looks."""
    code = "import sys; from app.db.schema import upgrade; upgrade(sys.argv[1]); print('alembic' in sys.modules)"
    starting = [sys.executable, "-c", code, f"sqlite:///{tmp_path / 'a.db'}"]
    said = [subprocess.run(starting, capture_output=True, text=True, check=True).stdout.strip() for _ in range(2)]
    assert said == ["True", "False"]


def test_path_with_a_percent_sign_is_migrated(tmp_path: Path) -> None:
    """Alembic's configuration interpolates; a directory's name must not."""
    directory = tmp_path / "50%(done)s"
    directory.mkdir()
    upgrade(f"sqlite:///{directory / 'a.db'}")
    assert schema(f"sqlite:///{directory / 'a.db'}")


# Constraints that the version before fulfils: rows that break one are reported before anything is changed (test_upgrade).
CONSTRAINS = {"0023_rules_of_rows"}
EXECUTES = {
    "0006_audit_trail": "triggers, which refuse what no version of the code ever did",
    "0007_family_grants": "rows of the new table",
    "0025_blob_refs": "rows of the new table",
}


@pytest.mark.parametrize("file", VERSIONS[1:], ids=lambda file: file.stem)
def test_migrations_only_add(file: Path) -> None:
    """The version before runs on while a migration does, and after it: nothing that it uses may go, change or narrow."""
    tree = ast.parse(file.read_text())
    upgrading = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "upgrade")
    calls = [node for node in ast.walk(upgrading) if isinstance(node, ast.Call)]
    names = {call.func.attr for call in calls if isinstance(call.func, ast.Attribute)}
    assert names & TIGHTENING == set()
    assert "execute" not in names or file.stem in EXECUTES, "say in EXECUTES why it takes nothing away"
    for call in calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_column":
            said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.args[-1].keywords}  # type: ignore[attr-defined]
            assert said.get("nullable") == "True" or "server_default" in said, ast.unparse(call)
        if isinstance(call.func, ast.Attribute) and call.func.attr == "create_index":
            assert "unique=True" not in ast.unparse(call), ast.unparse(call)
    helpers = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
    assert ("add" in helpers) == (file.stem in CONSTRAINS), "say in CONSTRAINS why the version before fulfils it"
    assert "add" not in helpers or "require_fulfilled" in helpers


def test_second_concurrent_upgrade_waits_and_does_nothing(server: Postgres) -> None:
    """The second waits until the first is done, and then finds nothing left to do."""
    url = server.create()
    upgrading = [sys.executable, "-m", "app.cli.main", "db", "upgrade"]
    variables = environment(PORTLLM_DATABASE_URL=url)
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as first:
        first.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key_of(MIGRATIONS)})
        both = [subprocess.Popen(upgrading, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
        until(lambda: first.scalar(text(waiting)) == 2)
        assert schema(url) == {}
    for process in both:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert b"this version needs" in out
    assert set(schema(url)) == set(Base.metadata.tables)


@pytest.mark.parametrize(("before", "index"), [("0008", "ix_patch_versions_owner_state"), ("0009", "ix_patch_versions_digest")])
def test_migration_whose_index_is_refused_succeeds_when_repeated(server: Postgres, before: str, index: str) -> None:
    """An index is made outside of the migration's transaction: what else the migration does must not be committed with it."""
    url = server.create()
    command.upgrade(alembic_config(url), before)
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as busy:
        busy.execute(text("LOCK TABLE patch_versions IN SHARE UPDATE EXCLUSIVE MODE"))
        with pytest.raises(DomainError) as refused:
            upgrade(url, seconds=1)
        assert refused.value.code == "database.held"
        assert index not in _indexes(url)
    upgrade(url)
    assert index in _indexes(url)


def _indexes(url: str) -> set[str]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return set(connection.scalars(text("SELECT indexname FROM pg_indexes WHERE schemaname = 'public'")))


def test_a_migration_does_not_wait_long_for_a_lock(server: Postgres) -> None:
    """Whoever holds a table makes the upgrade fail with a sentence; nothing is half done, and the next try succeeds."""
    url = server.create()
    command.upgrade(alembic_config(url), "0001")
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as busy:
        busy.execute(text("SELECT count(*) FROM patch_versions"))
        with pytest.raises(DomainError) as refused:
            upgrade(url, seconds=1)
        assert refused.value.code == "database.held"
        assert getattr(refused.value.__cause__, "code", None) == "database.busy"
        assert "workers" not in schema(url)
    upgrade(url)
    assert "workers" in schema(url)

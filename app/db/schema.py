"""The database schema: which revision the database has, which one this version needs, and how to upgrade.

Every migration must have these properties, which `tests/db/test_upgrade.py` checks:

- The previous version keeps working while a migration runs and after it. A migration therefore only adds to the schema of the
  previous release: tables, columns that are nullable or have a default in the database, non-unique indexes, and constraints that
  all statements of the previous release satisfy. Rows that violate a constraint are reported before anything is changed
  (`migrations/constraints.py`).
- A migration is one transaction. Indexes on PostgreSQL are created concurrently, outside of a transaction, so that writers do not
  wait (`migrations/indexes.py`). A migration waits for a lock so briefly that no request fails, and is retried; if another
  session holds a table for long, the upgrade fails with an error. Steps that were completed before remain.
- Tables and columns that are no longer used are dropped one release later, never by the release that stops using them.
- A version starts with its own schema or a newer one, never with an older one.

Alembic, with its template engine and syntax highlighter, is imported only for an upgrade, so that a normal start is not delayed.
"""

from __future__ import annotations

import logging
import os
import shlex
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import URL, Engine, column, inspect, make_url, select, table, text

import migrations
from app.core.fsync import sync
from app.db.engine import make_engine
from app.db.errors import translated
from app.domain.errors import DomainError

if TYPE_CHECKING:
    from alembic.config import Config

# Alembic's table, which holds the revision of a database.
VERSION_TABLE = "alembic_version"
NONE = "nothing"
TRY_SECONDS, PAUSE_SECONDS = 60.0, 0.5

log = logging.getLogger("portllm.database")


def upgrade(url: str, seconds: float = TRY_SECONDS) -> None:
    """Brings our tables up to date; two at once wait for each other.

    Args:
        url: of the database.
        seconds: how long to try again while others hold what a migration needs.

    Raises:
        DomainError: database.unreachable, database.held (somebody held a table all that time).
    """
    engine = make_engine(url)
    try:
        if current(engine) == head():
            return
    finally:
        engine.dispose()
    from alembic import command  # noqa: PLC0415

    deadline = time.monotonic() + seconds
    while True:
        try:
            with translated():
                command.upgrade(alembic_config(url), "head")
        except DomainError as error:
            if error.code not in ("database.busy", "database.collision"):
                raise
            if time.monotonic() > deadline:
                raise DomainError("database.held") from error
        else:
            return
        time.sleep(PAUSE_SECONDS)


@cache
def head() -> str:
    """The revision that this version needs."""
    return max(known())


@cache
def known() -> frozenset[str]:
    """All revisions that this version knows: there is one chain, and its files are numbered by their revisions."""
    return frozenset(path.name.partition("_")[0] for path in (_scripts() / "versions").glob("[0-9]*.py"))


def current(engine: Engine) -> str | None:
    """The revision that a database is at; None for one without our tables.

    Raises:
        DomainError: database.unreachable.
    """
    with translated(), engine.connect() as connection:
        if not inspect(connection).has_table(VERSION_TABLE):
            return None
        found = connection.scalar(select(column("version_num")).select_from(table(VERSION_TABLE)))
        return None if found is None else str(found)


def require_head(engine: Engine) -> None:
    """Accepts a schema that this version can work with: its own, or a newer one.

    Migrations only add (see `migrations/`), so that the previous version goes on while the next one is rolled out. A
    revision that this version does not know is therefore a newer one.

    Raises:
        DomainError: database.schema, database.unreachable.
    """
    found, needed = current(engine), head()
    if found == needed:
        return
    if found is None or found in known():
        raise DomainError("database.schema", found=found or NONE, needed=needed)
    _say_newer(found, needed)


@cache
def _say_newer(found: str, needed: str) -> None:
    """Once: readiness asks again and again."""
    log.warning("the database is at schema %s, newer than this version's %s", found, needed)


def require_engine_tables(engine: Engine) -> None:
    """On PostgreSQL the job engine's tables are made by `portllm db upgrade` too.

    Raises:
        DomainError: database.schema, database.unreachable.
    """
    with translated(), engine.connect() as connection:
        if connection.scalar(text("SELECT to_regclass('dbos.workflow_status')")) is None:
            raise DomainError("database.schema", found=f"{head()} without the job engine's tables", needed=head())


def backup(url: str, target: Path) -> None:
    """Writes a consistent copy of a SQLite database into a file that is not there yet, while others read and write it.

    The file is for its owner alone (it holds hashes of tokens), and on the disk when this returns: SQLite does not sync
    what VACUUM INTO writes (https://www.sqlite.org/lang_vacuum.html). After a failure there is none.

    Raises:
        DomainError: server.storage_full.
        OSError: the file is there already, or cannot be written.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    engine = make_engine(url)
    try:
        with translated(), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM INTO ?", (str(target),))
        for path in (target, target.absolute().parent):
            sync(path)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        engine.dispose()


def dump_command(url: str, target: Path) -> str:
    """The shell command that copies a PostgreSQL database into a file; it holds no password (PGPASSWORD, or ~/.pgpass)."""
    parsed = make_url(url)
    place = URL.create("postgresql", parsed.username, None, parsed.host, parsed.port, parsed.database, parsed.query)
    return shlex.join(["pg_dump", "--format=custom", f"--file={target}", f"--dbname={place.render_as_string()}"])


def alembic_config(url: str) -> Config:
    """Alembic's configuration, without a file."""
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_scripts()))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


def _scripts() -> Path:
    return Path(migrations.__file__).parent

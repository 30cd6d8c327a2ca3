"""Brings the database of an installation up to date."""

from dbos import run_dbos_database_migrations

from app.db import job_indexes, schema
from app.db.engine import migration_engine
from app.db.errors import translated
from app.settings import SQLITE


def upgrade(url: str) -> None:
    """Upgrades our tables, and on PostgreSQL the job engine's tables; on SQLite the engine creates its tables when it starts."""
    schema.upgrade(url)
    if url.startswith(SQLITE):
        return
    run_dbos_database_migrations(url)
    database = migration_engine(url)
    try:
        with translated():
            job_indexes.create(database)
    finally:
        database.dispose()

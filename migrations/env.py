"""Runs migrations on the database that the caller named.

On PostgreSQL two upgrades at once wait for each other, and none waits long for a lock: see `app.db.engine.MIGRATIONS`.
"""

from typing import Any

from alembic import context
from sqlalchemy import Connection, text

from app.db.base import Base
from app.db.engine import migration_engine
from app.db.locks import MIGRATIONS, hold

WAIT_FOR_ANOTHER_UPGRADE = "600s"


def ours(item: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:  # noqa: ARG001  Alembic's signature
    """The job engine's tables share our SQLite file; they are not ours to change."""
    table = item if kind == "table" else getattr(item, "table", None)
    return table is None or table.name in Base.metadata.tables


def take_turn(connection: Connection) -> None:
    """Held by the connection, not by a transaction, so that a migration may use several."""
    connection.execute(text("SELECT set_config('lock_timeout', :wait, true)"), {"wait": WAIT_FOR_ANOTHER_UPGRADE})
    hold(connection, MIGRATIONS)
    connection.commit()


def run() -> None:
    engine = migration_engine(context.config.get_main_option("sqlalchemy.url") or "")
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            take_turn(connection)
        else:  # a batch drops a table that others refer to; inside a transaction the pragma would have no effect
            connection.connection.driver_connection.execute("PRAGMA foreign_keys=OFF")
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            include_object=ours,
            render_as_batch=True,
            compare_type=True,
            transaction_per_migration=True,  # each holds few tables, and what was made stays made
        )
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
    engine.dispose()


run()

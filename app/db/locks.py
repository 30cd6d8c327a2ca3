"""Advisory locks, for cases in which there is no row to lock. SQLite needs none: only one transaction writes at a time."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, text
from sqlalchemy.orm import Session

# PostgreSQL names advisory locks by 64-bit numbers; these are ours.
BYTES = "portllm:bytes"
EVENTS = "portllm:events"
FIRST_TOKEN = "portllm:first-token"  # noqa: S105  a lock's name
MAINTENANCE = "portllm:house"
MIGRATIONS = "portllm:migrations"


def advisory_lock(session: Session, name: str) -> None:
    """Waits for an exclusive advisory lock, and holds it until this transaction ends."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key_of(name)})


def advisory_lock_shared(session: Session, name: str) -> None:
    """Waits for a shared advisory lock, and holds it until this transaction ends."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock_shared(:key)"), {"key": key_of(name)})


def try_advisory_lock(session: Session, name: str) -> bool:
    """Tries to take an exclusive advisory lock until this transaction ends, without waiting; returns whether it was taken."""
    if session.get_bind().dialect.name != "postgresql":
        return True
    return bool(session.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": key_of(name)}))


@contextmanager
def lock_if_free(engine: Engine | None, name: str) -> Iterator[bool]:
    """Tries to take a session-level advisory lock, which outlives transactions, on its own connection; yields whether it did.

    Args:
        engine: on PostgreSQL, `app.db.engine.lock_engine`; None on SQLite, where only one process uses the database.
        name: the name of the lock.
    """
    if engine is None:
        yield True
        return
    with engine.connect() as connection:
        free = bool(connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": key_of(name)}))
        try:
            yield free
        finally:
            if free:
                _release(connection, name)


def hold(connection: Connection, name: str) -> None:
    """Waits for an advisory lock, and holds it until the connection is closed."""
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key_of(name)})


def _release(connection: Connection, name: str) -> None:
    if not connection.invalidated:  # the server let go of it, if the connection broke
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key_of(name)})


def key_of(name: str) -> int:
    """A signed 64-bit number for a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)

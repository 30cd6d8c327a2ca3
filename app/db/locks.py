"""Turns at what no row stands for yet. SQLite needs none: there, one transaction writes at a time."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, text
from sqlalchemy.orm import Session

# PostgreSQL names advisory locks by 64-bit numbers; these are ours.
EVENTS = "portllm:events"
FIRST_TOKEN = "portllm:first-token"  # noqa: S105  a lock's name
HOUSE = "portllm:house"
MIGRATIONS = "portllm:migrations"


def take_turn(session: Session, name: str) -> None:
    """Waits until no other transaction has this turn, and keeps it until this transaction ends."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key_of(name)})


@contextmanager
def turn(engine: Engine, name: str) -> Iterator[None]:
    """A turn that outlives transactions, held by a connection of its own."""
    if engine.dialect.name != "postgresql":
        yield
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        hold(connection, name)
        try:
            yield
        finally:
            if not connection.invalidated:  # the server let go of it, if the connection broke
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key_of(name)})


def hold(connection: Connection, name: str) -> None:
    """Waits for a turn and keeps it as long as the connection lives."""
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key_of(name)})


def key_of(name: str) -> int:
    """A signed 64-bit number for a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)

"""What a database can answer instead of a result, in the registry's own words.

PostgreSQL's states: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import exc

from app.domain.errors import DomainError

# unique_violation, foreign_key_violation, serialization_failure, deadlock_detected: somebody else was first.
COLLISIONS = frozenset({"23505", "23503", "40001", "40P01"})
# query_canceled (statement_timeout), lock_not_available (lock_timeout), too_many_connections.
TOO_LONG = frozenset({"57014", "55P03", "53300"})
# The same conditions while a connection is being opened, when libpq passes on only the server's text; the last is PgBouncer's.
NO_CONNECTION_LEFT = ("too many clients", "remaining connection slots", "too many connections", "no more connections allowed")
DISK_FULL = "53100"
# SQLITE_FULL, and SQLITE_IOERR_SHMSIZE: the write-ahead log's index could not grow.
SQLITE_DISK_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})

log = logging.getLogger("portllm.database")


class CollisionError(DomainError):
    """Another transaction wrote the same thing first. Run again, a use case finds it there and answers as to any repeat."""

    def __init__(self) -> None:
        super().__init__("database.collision")


@contextmanager
def translated() -> Iterator[None]:
    """Turns failures of the database into domain errors; those that only a mistake of ours explains stay what they are.

    Raises:
        CollisionError: another transaction wrote the same thing first.
        DomainError: database.unreachable, database.busy, server.storage_full, request.invalid.
    """
    try:
        yield
    except exc.SQLAlchemyError as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        if not isinstance(refusal, CollisionError):
            log.warning("%s: %s", refusal.code, _first_line(error))
        raise refusal from error


def refusal_of(error: exc.SQLAlchemyError) -> DomainError | None:
    """The refusal that a failure amounts to; None for a mistake of ours."""
    cause = getattr(error, "orig", None)
    state = str(getattr(cause, "sqlstate", None) or "")
    if state in COLLISIONS:
        return CollisionError()
    if state in TOO_LONG or isinstance(error, exc.TimeoutError) or (not state and _has_no_connection_left(cause)):
        return DomainError("database.busy")
    if is_full(error):
        return DomainError("server.storage_full")
    if isinstance(cause, sqlite3.Error):
        is_busy = getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
        return DomainError("database.busy") if is_busy else None
    if isinstance(error, exc.DataError):
        # SQLite keeps a zero character, PostgreSQL's text cannot.
        return DomainError("request.invalid", reason="A text in it is too long, or holds a zero character.")
    if isinstance(error, exc.OperationalError | exc.InterfaceError) or getattr(error, "connection_invalidated", False):
        return DomainError("database.unreachable")
    return None


def _has_no_connection_left(cause: object) -> bool:
    return isinstance(cause, psycopg.OperationalError) and any(words in str(cause) for words in NO_CONNECTION_LEFT)


def is_full(error: BaseException) -> bool:
    """Returns whether an error means that the database has no space left: a SQLAlchemy error, or the `DomainError` made from it.

    A full blob store raises the same `DomainError` code, but with another cause.
    """
    cause = getattr(error.__cause__ if isinstance(error, DomainError) else error, "orig", None)
    return getattr(cause, "sqlstate", None) == DISK_FULL or getattr(cause, "sqlite_errorcode", None) in SQLITE_DISK_FULL


def _first_line(error: exc.SQLAlchemyError) -> str:
    """Without the statement and its values, which may be anybody's."""
    return str(getattr(error, "orig", None) or type(error).__name__).partition("\n")[0]

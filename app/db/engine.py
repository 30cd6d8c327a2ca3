"""Engines and sessions."""

import sqlite3
import time
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy import URL, Engine, ExceptionContext, NullPool, create_engine, event, exc, make_url
from sqlalchemy.orm import Session, sessionmaker

from app.db import blob_refs

BUSY_TIMEOUT_MS = 30_000
WRITES = "portllm_writes"
# The pool is smaller than the number of threads of a process, because a request uses at most one connection and returns it within
# milliseconds. The other figure is how long a request waits for one.
CONNECTIONS, POOL_WAIT_SECONDS = 20, 10
COUNTER_CONNECTIONS, JOB_CONNECTIONS = 2, 5
# A connection that was used a moment ago is not asked whether it lives: under load that would be a round trip for every request.
IDLE_SECONDS = 1.0
USED = "portllm_used"
# For psycopg; what the URL says goes before it. A server that vanished is noticed in half a minute, not after hours.
CONNECT = {"connect_timeout": 5, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4}


@dataclass(frozen=True)
class Patience:
    """How long a statement may run and wait for a lock, in milliseconds; PostgreSQL ends it then."""

    statement_ms: int
    lock_ms: int


REQUESTS = Patience(statement_ms=30_000, lock_ms=10_000)
# A migration that waits for a lock makes everybody queue behind it: better to give up soon and try again. It must be far sooner
# than PostgreSQL looks for deadlocks (after 1 s): a migration that holds one table and waits for another would otherwise
# be in a deadlock with a request that has them the other way round, and the request could be the one that is ended.
MIGRATIONS = Patience(statement_ms=600_000, lock_ms=300)


def make_engine(url: str, patience: Patience = REQUESTS, connections: int = CONNECTIONS) -> Engine:
    """An engine for a database URL; for SQLite in WAL mode, with foreign keys and transactions that say what they want.

    `options` in a PostgreSQL URL takes precedence over ours: `?options=-c statement_timeout=60s`.

    Args:
        url: the database URL.
        patience: the statement timeouts.
        connections: the size of the connection pool on PostgreSQL.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        engine = create_engine(
            parsed, pool_size=connections, max_overflow=0, pool_timeout=POOL_WAIT_SECONDS,
            connect_args=_connect_args(parsed, patience), hide_parameters=True,
        )  # fmt: skip
        _ping_idle_connections(engine)
        return engine
    engine = create_engine(url, pool_size=20, max_overflow=40, hide_parameters=True)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def migration_engine(url: str) -> Engine:
    """An engine for changing the schema: patient, and without a pool that would outlive it. On SQLite it takes the write lock
    when it begins: a migration reads first, and would be refused at once if somebody wrote after that.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        return create_engine(parsed, poolclass=NullPool, connect_args=_connect_args(parsed, MIGRATIONS))
    return make_engine(url).execution_options(**{WRITES: True})


def lock_engine(url: str) -> Engine:
    """Returns an engine without a pool, for advisory locks on PostgreSQL that outlive transactions.

    Each lock occupies a connection while it is held, possibly for minutes. The connection is opened for the lock and closed after
    it, so that locks never take pooled connections away from requests.
    """
    parsed = make_url(url)
    return create_engine(
        parsed, poolclass=NullPool, isolation_level="AUTOCOMMIT", hide_parameters=True,
        connect_args=_connect_args(parsed, REQUESTS),
    )  # fmt: skip


def counter_engine(url: str, connections: int = COUNTER_CONNECTIONS) -> Engine:
    """An engine for statements that are a transaction each, with few connections of its own: for what is counted beside requests
    that hold a connection already.
    """
    parsed = make_url(url)
    engine = create_engine(
        parsed, pool_size=connections, max_overflow=0, pool_timeout=POOL_WAIT_SECONDS, isolation_level="AUTOCOMMIT",
        connect_args=_connect_args(parsed, REQUESTS), hide_parameters=True,
    )  # fmt: skip
    _ping_idle_connections(engine)
    return engine


def read_sessions(engine: Engine) -> sessionmaker[Session]:
    """Sessions that only read; all that one reads is of one moment, as on SQLite."""
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return sessionmaker(engine, expire_on_commit=False, autoflush=False)


def write_sessions(engine: Engine) -> sessionmaker[Session]:
    """Returns a factory of sessions that may write. On SQLite they take the write lock when they begin, because a read
    transaction that is upgraded fails at once if another session wrote meanwhile, whatever the busy timeout. On PostgreSQL they
    run concurrently; conflicting changes lock the row. Changes of rows that keep bytes are recorded (`blob_refs.watch`).
    """
    sessions = sessionmaker(engine.execution_options(**{WRITES: True}), expire_on_commit=False, autoflush=False)
    blob_refs.watch(sessions)
    return sessions


def _ping_idle_connections(engine: Engine) -> None:
    """As the pool's own `pool_pre_ping`, but only for connections that had time to die unnoticed."""

    def note(connection: Any, record: Any) -> None:  # noqa: ARG001  SQLAlchemy's signature
        record.info[USED] = time.monotonic()

    def ping(connection: Any, record: Any, proxy: Any) -> None:  # noqa: ARG001
        if time.monotonic() - record.info[USED] < IDLE_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except psycopg.Error as error:
            raise exc.InvalidatePoolError from error  # it and all that are as old are opened anew

    event.listen(engine, "connect", note)
    event.listen(engine, "checkin", note)
    event.listen(engine, "checkout", ping)


def _connect_args(url: URL, patience: Patience) -> dict[str, Any]:
    timeouts = f"-c statement_timeout={patience.statement_ms} -c lock_timeout={patience.lock_ms}"
    given = url.query.get("options", "")
    options = f"{timeouts} {given if isinstance(given, str) else ' '.join(given)}"
    return {name: value for name, value in CONNECT.items() if name not in url.query} | {"options": options.strip()}


def _unixepoch(modifier: str) -> int:
    """What `unixepoch('subsec')` is where SQLite knows it, in whole seconds, as the job engine writes them on Python 3.11."""
    if modifier != "subsec":
        raise ValueError(f"unixepoch({modifier!r}) is not SQLite's")
    return int(time.time())


def _teach_sqlite(connection: Any, _: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.create_function("unixepoch", 1, _unixepoch)


def _expect_it_back(context: ExceptionContext) -> None:
    """A server that cannot be reached is away, whatever the words: no socket, no address, nobody who listens."""
    if context.connection is None and isinstance(context.original_exception, psycopg.OperationalError):
        context.is_disconnect = True


# The job engine waits for a database that it takes to be away, and knows that by the words "connection failed" alone. Where the
# name cannot be resolved or the socket is missing, as while a server restarts, psycopg says others, and jobs would be given up.
event.listen(Engine, "handle_error", _expect_it_back)

# From Python 3.12 on, the job engine's tables ask SQLite for a time that it knows from 3.42 on; Debian 12 has 3.40, which gives
# NULL, and no service would start. The job engine's own connections are not ours to make: so every one is taught.
SUBSECONDS = (3, 42)
if sqlite3.sqlite_version_info < SUBSECONDS:
    event.listen(Engine, "connect", _teach_sqlite)


def _prepare_sqlite(connection: Any, record: Any) -> None:  # noqa: ARG001  SQLAlchemy's signature
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}", "synchronous=FULL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get(WRITES) else "BEGIN")

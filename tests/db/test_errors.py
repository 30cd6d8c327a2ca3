"""A database that is not there, not migrated, or written to by two at once: each is said by its code."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from dbos._utils import retriable_postgres_exception
from sqlalchemy import Engine, NullPool, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from app.db import schema
from app.db.base import now
from app.db.engine import make_engine
from app.db.errors import refusal_of, translated
from app.db.families import Family
from app.domain.errors import DomainError
from app.domain.ids import new_id
from app.runtime import Runtime
from app.settings import Settings
from tests.support.postgres import Postgres
from tests.support.registry import Service


def raised(call: Callable[[], object]) -> DomainError:
    with pytest.raises(DomainError) as caught:
        call()
    return caught.value


def connected(engine: Engine) -> None:
    with translated(), engine.connect():
        pass


def test_start_on_a_database_without_migrations_is_refused(server: Postgres, tmp_path: Path) -> None:
    """A service does not migrate PostgreSQL by itself, and says who does."""
    runtime = Runtime(Settings(data=tmp_path, database_url=server.create(), jobs=False))
    error = raised(runtime.start)
    assert error.code == "database.schema"
    assert "portllm db upgrade" in error.remedy


def test_start_without_a_database_server_is_refused() -> None:
    """A server that is not there."""
    error = raised(lambda: schema.upgrade("postgresql+psycopg://nobody@127.0.0.1:1/none"))
    assert error.code == "database.unreachable"
    assert error.kind == "busy"


@pytest.mark.parametrize("address", ["/none?host=/none/of/that", "127.0.0.1:1/none", "none.invalid/none"])
def test_the_job_engine_waits_for_a_database_that_is_away(address: str) -> None:
    """By its own measure, which is made of words that psycopg says in one of these cases only: jobs must not be given up."""
    engine = create_engine(f"postgresql+psycopg://nobody@{address}", connect_args={"connect_timeout": 5})
    with pytest.raises(OperationalError) as caught:
        engine.connect()
    assert retriable_postgres_exception(caught.value)


def test_a_connection_that_died_while_idle_is_replaced(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody notices; one that was used a moment ago is not asked, and then the request that finds it dead says so."""
    engine = make_engine(server.url)
    others = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = :pid")

    def used() -> int:
        with engine.connect() as connection:
            return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())

    def kill(pid: int) -> None:
        killer = create_engine(server.url, poolclass=NullPool)
        with killer.connect() as connection:
            assert connection.execute(others, {"pid": pid}).scalar_one()

    first = used()
    assert used() == first
    kill(first)
    with pytest.raises(DomainError) as caught, translated():
        used()
    assert caught.value.code == "database.unreachable"
    second = used()
    kill(second)
    monkeypatch.setattr("app.db.engine.IDLE_SECONDS", 0.0)
    assert used() not in (first, second)
    engine.dispose()


def test_connect_where_no_connection_is_left_is_busy(server: Postgres) -> None:
    """The server answers and lets nobody in just now: whoever comes again gets in, so it is not said to be away."""
    name = f"crowded_{new_id('tst')}"
    server.execute(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 1 PASSWORD 'crowded'")
    url = make_url(server.url).set(username=name, password="crowded")
    engine = make_engine(url.render_as_string(hide_password=False))
    try:
        with engine.connect():
            error = raised(lambda: connected(engine))
    finally:
        engine.dispose()
        server.execute(f"DROP ROLE {name}")
    assert (error.code, error.kind) == ("database.busy", "busy")


@pytest.mark.parametrize("sentence", [
    "FATAL:  sorry, too many clients already",
    "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
    "FATAL:  no more connections allowed (max_client_conn)",
])  # fmt: skip
def test_refused_connection_of_a_full_server_is_busy(sentence: str) -> None:
    """While a connection is opened, libpq passes on the server's sentence and no state."""
    error = OperationalError("connect", None, psycopg.OperationalError(f"connection failed: {sentence}"))
    refusal = refusal_of(error)
    assert refusal is not None
    assert refusal.code == "database.busy"


def test_lock_leaves_the_connections_of_requests_alone(migrated: Callable[[], str], tmp_path: Path) -> None:
    """As many locks as there are connections for requests, and a request is answered all the same."""
    settings = Settings(jobs=False, data=tmp_path, database_url=migrated(), secret_key="s" * 32, database_connections=2)
    runtime = Runtime(settings)
    runtime.start()
    try:
        with ExitStack() as stack:
            for number in range(3):
                stack.enter_context(runtime.exclusive(f"upload:{number}", "The upload"))
            with runtime.read() as uow:
                assert uow.session.scalar(text("SELECT 1")) == 1
    finally:
        runtime.stop()


def test_write_of_what_another_wrote_first_is_a_collision(
    registries: Callable[..., Service], migrated: Callable[[], str]
) -> None:
    """What another transaction wrote first is a collision: whoever asked runs again and finds it."""

    def write() -> None:
        with service.runtime.write() as uow:
            uow.add(Family(id=new_id("fam"), created_at=now(), name="taken", owner="registry", description=""))

    with registries(database_url=migrated()).running() as service:
        service.admin.family("taken")
        assert raised(write).code == "database.collision"


def test_sqlite_returns_defaults_to_the_job_engine(tmp_path: Path) -> None:
    """The default of its columns from Python 3.12 on, which older SQLite answers with NULL: also on connections of its own."""
    engine = create_engine(f"sqlite:///{tmp_path / 'a.db'}", poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (name TEXT, made INTEGER NOT NULL DEFAULT (unixepoch('subsec') * 1000))"))
        connection.execute(text("INSERT INTO t (name) VALUES ('x')"))
        assert abs(connection.scalar(text("SELECT made FROM t")) / 1000 - time.time()) < 60

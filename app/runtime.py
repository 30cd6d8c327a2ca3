"""The runtime: builds everything a running service needs out of its settings, and takes it down again."""

import fcntl
import importlib.metadata
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from dbos import run_dbos_database_migrations
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.blobs.local import LocalBlobs
from app.blobs.locks import Turns
from app.blobs.s3 import S3Blobs
from app.blobs.store import BlobStore
from app.clients.workers import WorkerFiles
from app.core import arithmetic
from app.core.arithmetic import Arithmetic, Device
from app.db import locks, schema
from app.db.engine import make_engine, read_sessions, write_sessions
from app.db.failures import translated
from app.domain.errors import DomainError
from app.jobs.engine import Engine
from app.jobs.kinds import CPU
from app.jobs.presence import Presence
from app.jobs.queue import DbosQueue
from app.services import jobs, sweep, tokens, workers
from app.services.backend import Doing
from app.services.library import Library
from app.services.readiness import Readiness
from app.services.uow import JobQueue, JobStatus, Limits, Tools, UnitOfWork, unit_of_work
from app.services.workers import Card
from app.settings import SQLITE, Settings

DISTRIBUTION = "portllm-registry"
ADMIN_TOKEN_FILE = "admin-token"  # noqa: S105  a file name
SECRET_KEY_FILE = "secret-key"  # noqa: S105  a file name
SECRET_KEY_BYTES = 32
RECONCILE_SECONDS = 5.0
SWEEP_SECONDS = 3600.0

log = logging.getLogger("portllm.runtime")


class NoJobs:
    """A queue that remembers what was enqueued and runs nothing: for processes that only answer."""

    def __init__(self) -> None:
        self.enqueued: list[tuple[str, str, str]] = []

    def enqueue(self, session: Session, job: str, kind: str, subject: str) -> None:  # noqa: ARG002  the protocol's
        self.enqueued.append((job, kind, subject))

    def cancel(self, job: str) -> None:
        self.enqueued = [e for e in self.enqueued if e[0] != job]

    def status(self, job: str) -> JobStatus | None:
        return next((JobStatus(j, "queued", None, None, None, None) for j, _, _ in self.enqueued if j == job), None)

    def page(
        self,
        session: Session,  # noqa: ARG002  the protocol's
        owner: str | None,
        kind: str | None,
        state: str | None,
        after: str | None,  # noqa: ARG002
        limit: int,
    ) -> list[JobStatus]:
        chosen = [j for j, k, _ in self.enqueued if (kind or k) == k and (owner or j.partition(":")[0]) == j.partition(":")[0]]
        return [JobStatus(j, "queued", None, None, None, None) for j in chosen if state in (None, "queued")][: limit + 1]


class Runtime:
    """What the surfaces run on. `start` before the first request, `stop` after the last.

    Attributes:
        pool: computes pieces of merged files, one thread a core.
        readers: the workers that live and read merged files, as of the last second.
        readiness: whether what it stands on answers.
        worker_ttl: after how many seconds without a word a worker is dead.
        handed_over: reads on workers for clients that must not be sent there.
        admin_token: the first admin token, where this start made it; to be shown once.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="merge")
        self._turns = Turns()
        self._places = threading.BoundedSemaphore(settings.merged_reads)
        self.admin_token: str | None = None
        self.card: Card | None = None
        self.worker_ttl = settings.worker_ttl_seconds
        self.readers = workers.Readers(self._look_for_readers)
        self.handed_over = WorkerFiles()
        self.readiness = Readiness(self.checks())
        self._stopping = threading.Event()
        self._engine: Engine | None = None
        self._lock_file: int | None = None

    def start(self) -> None:
        """Locks the data directory, migrates SQLite or looks whether PostgreSQL was, starts the job engine, warms torch; once.

        Raises:
            DomainError: data.locked, database.unreachable, database.schema.
        """
        if self._lock_file is not None:
            return
        data = self.settings.data
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock(data)
        if self.settings.is_embedded:
            schema.upgrade(self.settings.database_url)
        self._open(data, arithmetic.load)
        if self.settings.jobs:
            # With a database of its own it takes its jobs up again; beside others it is a worker like them.
            presence = None if self.settings.is_embedded else self._presence_of(introduce(CPU, arithmetic.host()))
            self._engine = Engine(self.settings.database_url, self.write, self.settings.job_concurrency, CPU, presence)
            self._engine.start()
        if isinstance(self._queue, DbosQueue):
            threading.Thread(target=self._keep_house, name="house", daemon=True).start()
        self._bootstrap(data)
        threading.Thread(target=arithmetic.load, name="warm", daemon=True).start()

    def look(self) -> None:
        """Opens database and bytes only to look at them, also beside a service that runs; `stop` closes them."""
        self._open(self.settings.data, arithmetic.load)

    def _open(self, data: Path, load: Callable[[], Arithmetic]) -> None:
        """Opens what use cases need: database, bytes, the queue of jobs."""
        self._database = make_engine(self.settings.database_url)
        if not self.settings.is_embedded:
            schema.require_head(self._database)
            schema.require_engine_tables(self._database)
        self._reads, self._writes = read_sessions(self._database), write_sessions(self._database)
        blobs = self._blobs(data)
        self._queue: JobQueue = self.job_queue()
        self.tools = Tools(
            blobs, Library(blobs), self._queue, load, tuple(self.settings.allow_roots), tuple(self.settings.allow_s3),
            Limits(self.settings.max_patch_bytes, self.settings.max_patch_files, self.settings.max_page), self._secret_key(data),
        )  # fmt: skip

    def job_queue(self) -> JobQueue:
        """Where jobs are enqueued; only an embedded service that runs none has nobody who would take them."""
        return NoJobs() if self.settings.is_embedded and not self.settings.jobs else DbosQueue(self.settings.database_url)

    def _blobs(self, data: Path) -> BlobStore:
        chosen = self.settings
        if not chosen.blobs:
            return LocalBlobs(data / "blobs")
        return S3Blobs(chosen.blobs, chosen.s3_public_endpoint, chosen.direct_transfers)

    def stop(self) -> None:
        """Hands running jobs back and closes everything."""
        self._stopping.set()
        if self._engine:
            self._engine.stop()
        if isinstance(self._queue, DbosQueue):
            self._queue.close()
        self.handed_over.close()
        self.pool.shutdown(wait=False, cancel_futures=True)
        self._database.dispose()
        if self._lock_file is not None:
            os.close(self._lock_file)

    def doing(self) -> list[Doing] | None:
        """The jobs that run in this process; None where it runs none."""
        return self._engine.doing() if self._engine else None

    def checks(self) -> dict[str, Callable[[], object]]:
        """What must answer before this process is of use, by part; each raises what is wrong with it."""
        return {"database": self._check_database, "blobs": self._check_blobs, "jobs": self._check_jobs}

    def _check_database(self) -> None:
        with self.read() as uow:
            uow.session.execute(text("SELECT 1"))
        schema.require_head(self._database)

    def _check_blobs(self) -> None:
        self.tools.blobs.check()

    def _check_jobs(self) -> None:
        if self._engine:
            self._engine.check()
        elif not self.settings.is_embedded:  # others run them: here, they are enqueued
            schema.require_engine_tables(self._database)

    @contextmanager
    def merged_read(self) -> Iterator[None]:
        """A place for one stream of merged bytes.

        Raises:
            DomainError: server.busy, when all are taken.
        """
        if not self._places.acquire(blocking=False):
            raise DomainError("server.busy", limit=self.settings.merged_reads, what="reads of merged models")
        try:
            yield
        finally:
            self._places.release()

    @contextmanager
    def read(self) -> Iterator[UnitOfWork]:
        """A unit of work that only reads."""
        with unit_of_work(self._reads, self.tools) as uow:
            yield uow

    @contextmanager
    def write(self) -> Iterator[UnitOfWork]:
        """A unit of work that may write; commits at its end."""
        with unit_of_work(self._writes, self.tools) as uow:
            yield uow

    @contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """Lets one caller at a time go on, in this process first, so that those who wait here hold no connection."""
        with self._turns.take(name), translated(), locks.turn(self._database, f"portllm:{name}"):
            yield

    def _presence_of(self, card: Card) -> Presence:
        return Presence(self.write, card, self.settings.worker_beat_seconds, self.settings.worker_ttl_seconds)

    def _look_for_readers(self) -> list[workers.Reader]:
        if self.settings.is_embedded:
            return []
        with self.read() as uow:
            return workers.readers(uow, self.worker_ttl)

    def _lock(self, data: Path) -> None:
        """One service for one data directory: the job engine's identity is fixed, two would run each other's jobs."""
        self._lock_file = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock_file)
            self._lock_file = None
            raise DomainError("data.locked", path=str(data)) from None

    def _secret_key(self, data: Path) -> bytes:
        """The key that was given, or one that is made once and kept in the data directory."""
        if self.settings.secret_key is not None:
            return self.settings.secret_key.get_secret_value().encode()
        path = data / SECRET_KEY_FILE
        if not path.exists():
            partial = path.with_suffix(f".{os.getpid()}")
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(SECRET_KEY_BYTES))
            partial.rename(path)  # whole or not there: half a key would be another key
        return path.read_text().encode()

    def _bootstrap(self, data: Path) -> None:
        """Makes the first admin token. The file is written first: a token that nobody can read would lock everybody out."""
        with self.write() as uow:
            self.admin_token = tokens.bootstrap(uow)
            if self.admin_token:
                path = data / ADMIN_TOKEN_FILE
                path.unlink(missing_ok=True)
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "w") as file:
                    file.write(self.admin_token + "\n")

    def _keep_house(self) -> None:
        """Reconciles facts with their jobs every few seconds, and sweeps at start and every hour."""
        next_sweep, told = time.monotonic(), set[str]()
        while not self._stopping.is_set():
            try:
                with self.write() as uow:
                    jobs.reconcile(uow, told)
                if time.monotonic() >= next_sweep:
                    next_sweep += SWEEP_SECONDS
                    with self.write() as uow:
                        sweep.sweep(uow)
            except Exception:  # whatever it is, the house is kept again in a while
                log.exception("keeping house failed")
            self._stopping.wait(RECONCILE_SECONDS)


def introduce(class_name: str, device: Device, url: str | None = None, labels: Mapping[str, str] | None = None) -> Card:
    """What this process says of itself as a worker, under an id that no other ever had."""
    host = socket.gethostname()
    return Card(
        id=f"{host[:100]}:{os.getpid()}:{secrets.token_hex(3)}", class_name=class_name, host=host, pid=os.getpid(),
        version=importlib.metadata.version(DISTRIBUTION), url=url, device=device.name, memory_bytes=device.memory,
        labels=dict(labels or {}),
    )  # fmt: skip


def upgrade(url: str) -> None:
    """Brings a database up to date: our tables, and on PostgreSQL the job engine's (on SQLite it makes them at its start)."""
    schema.upgrade(url)
    if not url.startswith(SQLITE):
        run_dbos_database_migrations(url)

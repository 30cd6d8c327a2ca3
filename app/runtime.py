"""The runtime: builds everything a running service needs out of its settings, and takes it down again."""

import gc
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from sqlalchemy import Engine as DatabaseEngine
from sqlalchemy import text

from app import background, datadir
from app.blobs.keyed_lock import KeyedLocks
from app.blobs.local import LocalBlobs
from app.blobs.s3 import client
from app.blobs.s3.store import S3Blobs
from app.blobs.store import BlobStore
from app.clients.workers import WorkerFiles
from app.composition import HANDLERS, JOB_KINDS
from app.core import arithmetic
from app.core.arithmetic import Arithmetic
from app.db import installation, job_indexes, locks, schema
from app.db.engine import counter_engine, lock_engine, make_engine, read_sessions, write_sessions
from app.db.errors import translated
from app.db.rate_limits import SharedCounters
from app.domain.errors import DomainError
from app.jobs.engine import Engine
from app.jobs.heartbeat import WorkerHeartbeat, introduce, process_id
from app.jobs.null_queue import NullQueue
from app.jobs.queue import DbosQueue
from app.services.access import tokens
from app.services.access.key_agreement import KeyAgreement, Role
from app.services.access.rate_limits import RateLimiter
from app.services.access.token_exchange import Identities
from app.services.artifacts.artifacts import Artifacts
from app.services.catalog import allowed_locations
from app.services.catalog.allowed_locations import AllowedLocations
from app.services.draining import Draining
from app.services.jobs import unserved_queues, workers
from app.services.jobs.workers import WorkerInfo
from app.services.operations.maintenance import Maintenance
from app.services.operations.readiness import Readiness
from app.services.read_slots import ReadSlots
from app.services.registry import Doing
from app.services.tools import JobQueue, Tools
from app.services.unit_of_work import UnitOfWork, run_with_retry, unit_of_work
from app.settings import Settings
from app.single_flight import SingleFlight


class Runtime:
    """The runtime of the HTTP surfaces. Call `start` before the first request and `stop` after the last.

    Args:
        settings: the settings of the installation.
        merges: False if this process reads no merged models, so that torch need not be imported.

    Attributes:
        pool: computes pieces of merged files, one thread a core.
        merged_reads, far_reads: semaphores for reads that keep large buffers.
        readiness: whether the components that this process depends on answer.
        draining: set when the process begins to stop, before its listener closes.
        identities: verifies identity tokens of the trusted issuers.
        job_kinds: the registered kinds of jobs.
        rates: the rate limits of requests; set from the start on.
        worker_ttl: seconds without a heartbeat after which a worker counts as dead.
        keys: compares the secret keys of the installation's processes; None on SQLite, where there is only one process.
        handed_over: reads files on workers for clients that are not redirected there.
        admin_token: the first admin token, if this start created it; to be shown once.
    """

    rates: RateLimiter
    job_kinds = JOB_KINDS

    def __init__(self, settings: Settings, merges: bool = True) -> None:
        self.settings, self._merges = settings, merges
        self.pool = ThreadPoolExecutor(arithmetic.threads(), thread_name_prefix="merge")
        self._turns = KeyedLocks()
        self.merged_reads = ReadSlots(settings.merged_reads, settings.merged_reads_of_one, "reads of merged models")
        self.far_reads = ReadSlots(settings.far_reads, settings.far_reads_of_one, "reads of large files from the object store")
        self._checks = ReadSlots(settings.checks, settings.checks_of_one, "checks of patches")
        self.admin_token: str | None = None
        self.worker_info: WorkerInfo | None = None
        self.worker_ttl = settings.worker_ttl_seconds
        self._readers = SingleFlight[None, list[workers.ReadWorker]](1, workers.LOOK_SECONDS)
        self.handed_over = WorkerFiles()
        self.readiness = Readiness(self.checks())
        self.draining = Draining()
        self.identities = Identities(settings.oidc, settings.oidc_max_lifetime_seconds)
        self._stopping = threading.Event()
        self._engine: Engine | None = None
        self._handing_back = threading.Lock()
        self._lock: int | None = None
        self._database: DatabaseEngine | None = None
        self._counters: DatabaseEngine | None = None
        self.keys: KeyAgreement | None = None
        self._locks: DatabaseEngine | None = None
        self._queue: JobQueue | None = None

    def start(self) -> None:
        """Locks the data directory, migrates SQLite or looks whether PostgreSQL was, starts the job engine, warms torch; once.

        Raises:
            DomainError: data.permissions, data.locked, database.unreachable, database.schema.
        """
        if self._lock is not None:
            return
        data = self.settings.data
        datadir.prepare(data, self.settings.database_url)
        self._lock = datadir.lock(data)
        try:
            self._begin(data)
        except BaseException:
            # A start that is refused leaves nothing held: whoever mends the reason starts again, in this process or another.
            self._let_go()
            raise

    def _begin(self, data: Path) -> None:
        chosen = self.settings
        if self.settings.is_embedded:
            schema.upgrade(self.settings.database_url)
        self._open(data, arithmetic.load)
        if not self.settings.is_embedded:
            run_with_retry(self.write, lambda uow: allowed_locations.announce(uow.session, self._allowed_places()))
        if self.settings.jobs:
            # With a database of its own it takes its jobs up again; beside others it is a worker like them.
            heartbeat = None if self.settings.is_embedded else self._heartbeat_of(introduce(workers.CPU, arithmetic.host()))
            engine = Engine(
                chosen.database_url, self.job_kinds, self.write, self.read, chosen.job_concurrency, chosen.job_poll_seconds,
                heartbeat=heartbeat, connections=chosen.database_job_connections,
            )  # fmt: skip
            engine.start()
            self._engine = engine
            if self.settings.is_embedded:  # the engine has created its tables by now
                job_indexes.create(self._started)
        self._bootstrap(data)
        self.announce_keys("service", process_id())
        if isinstance(self._queue, DbosQueue):
            upkeep = Maintenance(self.read, self.write, self, chosen.verify_bytes_per_hour, chosen.retention, self.worker_ttl)
            background.every(background.RECONCILE_SECONDS, self._stopping, "house", partial(self.run_maintenance, upkeep))
        self.watch_purges()
        self._warm()

    def look(self) -> None:
        """Opens database and bytes only to look at them, also beside a service that runs; `stop` closes them."""
        self._open(self.settings.data, arithmetic.load)

    def _warm(self) -> None:
        """Imports torch beside everything else, so that the first read of a merged model need not wait for it."""
        if self._merges and self.settings.warm:
            threading.Thread(target=_load_for_good, name="warm", daemon=True).start()

    def _open(self, data: Path, load: Callable[[], Arithmetic]) -> None:
        """Opens what use cases need: database, bytes, the queue of jobs."""
        client.configure(self.settings.s3)
        self._database = database = make_engine(self.settings.database_url, connections=self.settings.database_connections)
        if not self.settings.is_embedded:
            schema.require_head(database)
            schema.require_engine_tables(database)
        self._reads, self._writes = read_sessions(database), write_sessions(database)
        if not self.settings.is_embedded:
            self._counters = counter_engine(self.settings.database_url, self.settings.database_counter_connections)
            self._locks = lock_engine(self.settings.database_url)
        self.rates = RateLimiter(self.settings.rate_limits, SharedCounters(self._counters) if self._counters else None)
        blobs = self._blobs(data)
        self._queue = queue = self.job_queue()
        given = self.settings.secret_key
        secret_key = given.get_secret_value().encode() if given else datadir.secret_key(data)
        accepted = (key.get_secret_value().encode() for key in self.settings.secret_keys_accepted)
        allowed = self._allowed_places()
        self.tools = Tools(
            blobs, Artifacts(blobs, allowed.roots), queue, self.job_kinds, load, allowed.roots, allowed.s3,
            self.settings.limits, self._checks, self.merged_reads, self.far_reads, self.pool, (secret_key, *accepted),
        )  # fmt: skip

    def _allowed_places(self) -> AllowedLocations:
        """Returns the places that this process may use; called once the database is open."""
        return AllowedLocations(tuple(self.settings.allow_roots), tuple(self.settings.allow_s3))

    def job_queue(self) -> JobQueue:
        """Where jobs are enqueued; only an embedded service that runs none has nobody who would take them."""
        if self.settings.is_embedded and not self.settings.jobs:
            return NullQueue()
        return DbosQueue(self.settings.database_url, self.worker_ttl, self.settings.database_job_connections)

    def _blobs(self, data: Path) -> BlobStore:
        chosen = self.settings
        if not chosen.blobs:
            return LocalBlobs(data / "blobs")
        return S3Blobs(chosen.blobs, chosen.s3_public_endpoint, chosen.direct_transfers)

    def stop(self) -> None:
        """Hands running jobs back and closes everything."""
        self._stopping.set()
        self.hand_back_jobs()
        if self.keys:
            self.keys.leave()
        self.handed_over.close()
        self.pool.shutdown(wait=False, cancel_futures=True)
        self._let_go()

    def hand_back_jobs(self) -> None:
        """Stops taking jobs and ends those that run here, so that other workers take them over; idempotent."""
        with self._handing_back:  # a second caller waits until the first is done
            engine, self._engine = self._engine, None
            if engine:
                engine.stop()

    def _let_go(self) -> None:
        """Closes what was opened so far, the data directory's lock last."""
        if isinstance(self._queue, DbosQueue):
            self._queue.close()
        for database in filter(None, (self._database, self._counters)):
            database.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def _started(self) -> DatabaseEngine:
        """The database, which is open from the start on."""
        assert self._database is not None  # noqa: S101
        return self._database

    def doing(self) -> list[Doing] | None:
        """The jobs that run in this process; None where it runs none."""
        engine = self._engine
        return engine.doing() if engine else None

    def checks(self) -> dict[str, Callable[[], object]]:
        """What must answer before this process is of use, by part; each raises what is wrong with it."""
        checks: dict[str, Callable[[], object]] = {
            "database": self._check_database, "writes": self._check_writes, "blobs": self._check_blobs, "jobs": self._check_jobs,
        }  # fmt: skip
        if self.settings.is_embedded:  # a single process: no keys to compare, and it runs its own jobs
            return checks
        return checks | {"keys": self._check_keys, "workers": partial(unserved_queues.check, self.read)}

    def _check_database(self) -> None:
        with self.read() as uow:
            uow.session.execute(text("SELECT 1"))
        schema.require_head(self._started)

    def _check_writes(self) -> None:
        """Checks that the database accepts writes: with a full disk it still answers reads."""
        installation.check_writable(self._started)

    def _check_blobs(self) -> None:
        self.tools.blobs.check()

    def _check_jobs(self) -> None:
        if engine := self._engine:
            engine.check()
        elif not self.settings.is_embedded:  # others run them: here, they are enqueued
            schema.require_engine_tables(self._started)

    def _check_keys(self) -> str | None:
        return self.keys.check() if self.keys else None

    @contextmanager
    def read(self) -> Iterator[UnitOfWork]:
        """A unit of work that only reads."""
        with unit_of_work(self._reads, self.tools) as uow:
            yield uow

    @contextmanager
    def write(self) -> Iterator[UnitOfWork]:
        """A unit of work that may write; commits at its end."""
        with unit_of_work(self._writes, self.tools, HANDLERS) as uow:
            yield uow

    @contextmanager
    def exclusive(self, name: str, what: str) -> Iterator[None]:
        """Holds a named lock across processes; taken within this process first, so that only one request opens a connection.

        Raises:
            DomainError: request.under_way, when the lock is already held.
        """
        with self._turns.try_take(name) as here, translated():
            if not here:
                raise DomainError("request.under_way", what=what)
            with locks.lock_if_free(self._locks, f"portllm:{name}") as everywhere:
                if not everywhere:
                    raise DomainError("request.under_way", what=what)
                yield

    def _heartbeat_of(self, worker_info: WorkerInfo) -> WorkerHeartbeat:
        return WorkerHeartbeat(self.write, worker_info, self.settings.worker_beat_seconds, self.settings.worker_ttl_seconds)

    def readers(self) -> list[workers.ReadWorker]:
        """Returns the live workers that read merged files, as of the last second."""
        look = partial(run_with_retry, self.read, partial(workers.readers, ttl=self.worker_ttl))
        return [] if self.settings.is_embedded else self._readers.get(None, look)

    def _bootstrap(self, data: Path) -> None:
        """Makes the first admin token. The file is written first: a token that nobody can read would lock everybody out."""
        with self.write() as uow:
            self.admin_token = tokens.bootstrap(uow)
            if self.admin_token:
                datadir.keep_admin_token(data, self.admin_token)

    def run_maintenance(self, maintenance: Maintenance) -> bool:
        """Runs the maintenance that is due, unless another replica is running it; returns whether it ran."""
        with translated(), locks.lock_if_free(self._locks, locks.MAINTENANCE) as free:
            if free:
                maintenance.run_due()
            return free

    def announce_keys(self, role: Role, ident: str) -> None:
        """Announces this process's key to the other processes of the installation, and starts comparing keys; not on SQLite."""
        if self.settings.is_embedded:
            return
        self.keys = KeyAgreement(self.write, ident, role, self.tools.secret_keys, self.worker_ttl)
        self.keys.renew()
        background.every(self.settings.worker_beat_seconds, self._stopping, "keys", self.keys.renew)

    def watch_purges(self) -> None:
        """Begins to let go, every few seconds, of what this process holds of versions that were purged elsewhere."""
        background.every(background.REVOKE_SECONDS, self._stopping, "purges", partial(background.let_go_of_purged, self))


def _load_for_good() -> None:
    """What is there when a service has started stays: the collector need not look at it again with every few requests."""
    arithmetic.load()
    gc.collect()
    gc.freeze()

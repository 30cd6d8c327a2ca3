"""A worker: runs the jobs of one class, and reads merged models on its device for clients that the service sends.

Only one that listens needs the web framework, and imports it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from app import background, datadir
from app.core import arithmetic
from app.datadir import SECRET_KEY_FILE
from app.db.errors import translated
from app.domain.errors import DomainError
from app.domain.names import check_name
from app.jobs.engine import Engine
from app.jobs.heartbeat import WorkerHeartbeat, introduce
from app.runtime import Runtime
from app.services.catalog import allowed_locations
from app.services.catalog.allowed_locations import AllowedLocations
from app.services.jobs.workers import ACCELERATED, WorkerInfo
from app.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

MAX_CLASS = 40
# How often a worker checks which places the services allow.
PLACES_SECONDS = 5.0

log = logging.getLogger("portllm.worker")


@dataclass(frozen=True)
class Role:
    """What a worker is for.

    Attributes:
        class_name: whose jobs it runs.
        url: where clients reach its own endpoints; None when it has none.
        concurrency: how many jobs it runs at once.
        labels: free text by name, for people.
    """

    class_name: str
    url: str | None = None
    concurrency: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_accelerator(self) -> bool:
        """Whether its class promises one."""
        return self.class_name.startswith(ACCELERATED)


class WorkerRuntime(Runtime):
    """The runtime of a worker: the service's database and blob store, and its own job engine; no first token, no maintenance.

    Attributes:
        worker_info: what its heartbeats contain; set from the start on.
    """

    worker_info: WorkerInfo

    def __init__(self, settings: Settings, role: Role) -> None:
        super().__init__(settings)
        check_name(role.class_name[: MAX_CLASS + 1], "a class of workers")
        self.role = role
        self._heartbeat: WorkerHeartbeat | None = None
        self._refusal = ""

    def start(self) -> None:
        """Opens the database, says that it lives and begins to take jobs; once.

        Raises:
            DomainError: worker.embedded, worker.key, worker.roots, data.permissions.
        """
        if self._engine is not None:
            return
        settings, data = self.settings, self.settings.data
        if settings.is_embedded:
            raise DomainError("worker.embedded")
        if self.role.url and settings.secret_key is None and not (data / SECRET_KEY_FILE).exists():
            raise DomainError("worker.key")
        datadir.prepare(data)
        host = arithmetic.host()
        device = arithmetic.best_device() if self.role.url or self.role.has_accelerator else host
        if self.role.has_accelerator and device.id == host.id:
            log.warning("no accelerator was found here: jobs of class %s are computed on the processor", self.role.class_name)
        self._open(data, partial(arithmetic.load, device.id))
        allowed_locations.warn_of_absent(self._allowed_places())
        self.worker_info = introduce(self.role.class_name, device, self.role.url, self.role.labels)
        self._heartbeat = self._heartbeat_of(self.worker_info)
        # Jobs of a class without accelerators leave one that is there to those who asked for it.
        computing = device.id if self.role.has_accelerator else host.id
        engine = Engine(
            settings.database_url, self.job_kinds, self.write, self.read, self.role.concurrency, settings.job_poll_seconds,
            self.role.class_name, self._heartbeat, computing, settings.database_job_connections,
        )  # fmt: skip
        engine.start()
        self._engine = engine
        self.announce_keys("worker", self.worker_info.id)
        background.every(PLACES_SECONDS, self._stopping, "allowed-places", self._follow_allowed_places)
        self.watch_purges()

    def _allowed_places(self) -> AllowedLocations:
        """Returns the places of the installation, unless this worker was configured with its own.

        Raises:
            DomainError: worker.roots.
        """
        with translated(), self._reads() as session:
            return allowed_locations.adopt(session, super()._allowed_places())

    def _follow_allowed_places(self) -> None:
        """Adopts the places of a service that has started since, or logs once that this worker's own places do not cover them."""
        try:
            allowed = self._allowed_places()
        except DomainError as error:  # an unreachable database is reported elsewhere
            if error.code == "worker.roots" and str(error) != self._refusal:
                self._refusal = str(error)
                log.warning("%s", error)
            return
        if (allowed.roots, allowed.s3) != (self.tools.allowed_roots, self.tools.allowed_s3):
            allowed_locations.warn_of_absent(allowed)
            self.tools.artifacts.allow(allowed.roots)
            self.tools = dataclasses.replace(self.tools, allowed_roots=allowed.roots, allowed_s3=allowed.s3)

    def stop(self) -> None:
        """Hands running jobs back and closes everything; once."""
        if not self._stopping.is_set():
            super().stop()

    def _check_jobs(self) -> None:
        """Whether jobs are taken, and the others know that this worker lives.

        Raises:
            DomainError: worker.unready.
        """
        engine = self._engine
        if engine is None or self._heartbeat is None:
            raise DomainError("worker.unready", reason="has not started")
        if not self._heartbeat.is_seen:
            raise DomainError("worker.unready", reason="could give no sign of life")
        engine.check()


def create_worker_app(settings: Settings, role: Role) -> FastAPI:
    """Builds a worker's own application; nothing is opened before it starts."""
    from fastapi import FastAPI  # noqa: PLC0415
    from fastapi.concurrency import run_in_threadpool  # noqa: PLC0415

    from app.api import worker  # noqa: PLC0415
    from app.http.telemetry import MetricsOptions  # noqa: PLC0415

    runtime = WorkerRuntime(settings, role)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(runtime.start)
        try:
            yield
        finally:
            await run_in_threadpool(runtime.stop)

    app = FastAPI(
        title="PortLLM worker", version="1", lifespan=lifespan, redirect_slashes=False,
        docs_url=None, redoc_url=None, openapi_url=None,
    )  # fmt: skip
    app.state.registry = runtime
    worker.mount(app, MetricsOptions(settings.metrics_token.get_secret_value(), None, settings.metrics_owners, settings.data))
    return app

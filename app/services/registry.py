"""The interface of a running registry to the HTTP surfaces; `app.runtime.Runtime` implements it."""

from dataclasses import dataclass
from typing import Any, Protocol

from app.clients.workers import WorkerFiles
from app.services.access.rate_limits import RateLimiter
from app.services.access.token_exchange import Identities
from app.services.draining import Draining
from app.services.jobs.workers import ReadWorker, WorkerInfo
from app.services.operations.readiness import Readiness
from app.services.unit_of_work import UnitsOfWork


@dataclass(frozen=True)
class Doing:
    """A job that runs in this process; `progress` as in `app.jobs.child`, empty before its first report."""

    job: str
    kind: str
    progress: dict[str, Any]


class Registry(UnitsOfWork, Protocol):
    """Units of work, tools and the state of the process.

    Attributes:
        handed_over: reads files on workers for clients that are not redirected there.
    """

    worker_ttl: float
    readiness: Readiness
    draining: Draining
    identities: Identities
    rates: RateLimiter
    handed_over: WorkerFiles

    @property
    def worker_info(self) -> WorkerInfo | None:
        """What this process says of itself as a worker; None where it is none."""

    def doing(self) -> list[Doing] | None:
        """The jobs that run in this process; None where it runs none."""

    def readers(self) -> list[ReadWorker]:
        """Live workers that read merged files."""

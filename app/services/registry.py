"""What the surfaces run on, as they see it; the runtime is one."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from app.services.access.rate_limits import RateLimiter
from app.services.access.token_exchange import Identities
from app.services.draining import Draining
from app.services.jobs.workers import ReadWorker, WorkerInfo
from app.services.operations.readiness import Readiness
from app.services.read_slots import ReadSlots
from app.services.unit_of_work import UnitsOfWork


class FilesOfWorkers(Protocol):
    """Reads files on workers."""

    def read(self, url: str, headers: Mapping[str, str], length: int) -> Generator[memoryview, None, None] | None:
        """Starts a read that must give `length` bytes; None when that worker cannot be reached or does not do it now."""


@dataclass(frozen=True)
class Doing:
    """A job that runs in this process; `progress` as in `app.jobs.child`, empty before its first report."""

    job: str
    kind: str
    progress: dict[str, Any]


class Registry(UnitsOfWork, Protocol):
    """Units of work, tools, and semaphores for heavy reads.

    Attributes:
        merged_reads: semaphore for reads of merged files.
        far_reads: semaphore for reads of large files in an object store that are served unchanged.
    """

    worker_ttl: float
    readiness: Readiness
    draining: Draining
    identities: Identities
    rates: RateLimiter
    handed_over: "FilesOfWorkers"
    merged_reads: ReadSlots
    far_reads: ReadSlots

    @property
    def worker_info(self) -> WorkerInfo | None:
        """What this process says of itself as a worker; None where it is none."""

    def doing(self) -> list[Doing] | None:
        """The jobs that run in this process; None where it runs none."""

    def readers(self) -> list[ReadWorker]:
        """Live workers that read merged files."""

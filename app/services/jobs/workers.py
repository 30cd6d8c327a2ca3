"""Workers: their heartbeats, which of them are dead, and which one reads a merged model."""

import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from sqlalchemy.orm import Session

from app.db import heartbeats, job_queues
from app.db import jobs as job_rows
from app.db.base import clock, is_embedded
from app.db.workers import Worker
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.domain.signing import SECONDS, sign_read
from app.services.jobs.kinds import kinds_of
from app.services.unit_of_work import UnitOfWork

# A dead worker is shown for a day, for whoever looks for what happened.
REMEMBERED = dt.timedelta(days=1)
LOOK_SECONDS = 1.0
# Classes of workers: those with an accelerator are named after it, gpu24 or gpu80.
CPU, ACCELERATED = "cpu", "gpu"


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker says of itself; memory in bytes, of its device."""

    id: str
    class_name: str
    host: str
    pid: int
    version: str
    url: str | None
    device: str
    memory_bytes: int
    labels: dict[str, str]


@dataclass(frozen=True)
class WorkerStatus:
    """A worker as others see it."""

    row: Worker
    alive: bool
    jobs: list[str]


@dataclass(frozen=True)
class ReadWorker:
    """A live worker that reads merged models: its id, its URL, and the time of the look-up.

    Attributes:
        asked_at: seconds since 1970 by the database's clock, which all machines share.
    """

    id: str
    url: str
    asked_at: int


def beat(uow: UnitOfWork, worker_info: WorkerInfo) -> None:
    """Renews a worker's heartbeat, and removes the rows of workers that were not seen for a day."""
    heartbeats.beat(uow.session, Worker(**vars(worker_info)), REMEMBERED)


def leave(uow: UnitOfWork, worker: str) -> None:
    """Removes a worker's row; the next recovery hands its jobs to other workers."""
    heartbeats.remove(uow.session, Worker, worker)


def gone(uow: UnitOfWork) -> set[str]:
    """Executors that have jobs and no row: they took leave, or were silent for a day."""
    return job_rows.executors(uow.session) - {row.id for row in heartbeats.processes(uow.session, Worker)}


def dead(uow: UnitOfWork, ttl: float) -> set[str]:
    """Returns the executors that have jobs and have sent no heartbeat for `ttl` seconds, or none at all."""
    return job_rows.executors(uow.session) - {row.id for row in _live(uow.session, ttl)}


def everyone(uow: UnitOfWork, principal: Principal, ttl: float) -> list[WorkerStatus]:
    """All workers with their jobs, the longest running first."""
    principal.require_admin()
    workers = heartbeats.processes(uow.session, Worker)
    if not workers:  # on SQLite there are none, and perhaps no records of the engine
        return []
    live, running = {row.id for row in _live(uow.session, ttl)}, job_rows.running(uow.session)
    return [WorkerStatus(row, row.id in live, running.get(row.id, [])) for row in workers]


def readers(uow: UnitOfWork, ttl: float) -> list[ReadWorker]:
    """Live workers that can be reached."""
    present = int(clock(uow.session).timestamp())
    return [ReadWorker(row.id, row.url, present) for row in _live(uow.session, ttl) if row.url]


def live_by_class(uow: UnitOfWork, ttl: float) -> dict[str, int]:
    """How many workers live, by class."""
    return dict(Counter(row.class_name for row in _live(uow.session, ttl)))


def served(session: Session, ttl: float) -> set[str]:
    """Returns the classes that have a live worker. On SQLite the single service runs its jobs itself, without a worker."""
    return {CPU} if is_embedded(session) else {row.class_name for row in _live(session, ttl)}


def merging_class(session: Session, ttl: float) -> str:
    """Returns the class of workers for computing merged bytes: the accelerator class with the most live workers, else CPU."""
    accelerated = Counter(row.class_name for row in _live(session, ttl) if row.class_name.startswith(ACCELERATED))
    return max(accelerated, key=lambda name: (accelerated[name], name), default=CPU)


def release_stranded(uow: UnitOfWork, ttl: float) -> int:
    """Moves jobs whose accelerator class has no live worker to CPU workers, which compute the same bytes; returns how many.

    Args:
        uow: a transaction that writes.
        ttl: seconds without a heartbeat after which a worker counts as dead.
    """
    living = {row.class_name for row in _live(uow.session, ttl)}
    kinds = [kind.name for kind in kinds_of(uow).values() if kind.merges]
    return job_queues.move(uow.session, kinds, ACCELERATED, living, CPU)


def choose(candidates: Sequence[ReadWorker], fingerprint: str) -> ReadWorker | None:
    """Returns the worker that reads a merged model: the same one as long as it lives, so that its cached plan is reused.

    Uses rendezvous hashing: when a worker is added or removed, only the models of that worker move.
    """
    return max(candidates, key=lambda reader: hashlib.sha256(f"{fingerprint} {reader.id}".encode()).digest(), default=None)


def signed_url(key: bytes, reader: ReadWorker, port: str, path: str, token: str) -> str:
    """Returns a signed URL from which a client can read a file of a port on a worker.

    It is bound to the client's token (given by id) and valid for a few minutes after the worker was looked up.
    """
    expires = reader.asked_at + SECONDS
    signature = sign_read(key, reader.id, port, path, expires, token)
    query = urlencode({"expires": expires, "token": token, "signature": signature})
    return f"{reader.url.rstrip('/')}/ports/{quote(port)}/files/{quote(path)}?{query}"


def require_fresh(uow: UnitOfWork, expires: int) -> None:
    """Raises `DomainError` (worker.expired) for an address that was signed until a time that is over."""
    if clock(uow.session).timestamp() > expires:
        raise DomainError("worker.expired")


def _live(session: Session, ttl: float) -> Sequence[Worker]:
    return heartbeats.processes(session, Worker, ttl)

"""The true digests of a port's computed files: made once, by a job, then served and verified."""

from typing import Any

from app.core.recipe import Recipe
from app.db import ports as rows
from app.db.jobs import Claim, still_ours
from app.db.ports import Port
from app.domain.errors import DomainError
from app.domain.events.ports import PortDigested
from app.domain.principal import INSTALLATION, Principal
from app.services.access.quotas import require_room
from app.services.ports import ports
from app.services.unit_of_work import UnitOfWork

DIGEST = "digest"


def request(uow: UnitOfWork, principal: Principal, port_id: str) -> tuple[Port, str | None]:
    """Asks for the digests of a ready port.

    Returns:
        The port, and the job that computes them; None when they are known.
    """
    uow.lock(ports.get(uow, principal, port_id))
    port = ports.readable(uow, principal, port_id)
    if port.digests is not None:
        return port, None
    job = job_of(port)
    status = uow.tools.jobs.status(job)
    if status and status.state in ("failed", "cancelled"):
        port.digest_attempt += 1
        job = job_of(port)
    if status is None or status.state in ("failed", "cancelled"):
        require_room(uow, port.owner, jobs=1)
    uow.tools.jobs.enqueue(uow.session, job, DIGEST, port.id)
    return port, job


def compute_again(uow: UnitOfWork, principal: Principal, port_id: str) -> str:
    """Starts the next attempt after one that failed or was cancelled; the job.

    Raises:
        DomainError: state.move, when the digests are known meanwhile.
    """
    job = request(uow, principal, port_id)[1]
    if job is None:
        raise DomainError("state.move", noun="digest", state="done", target="queued")
    return job


def job_of(port: Port) -> str:
    return f"{port.owner}:{DIGEST}:{port.id}-{port.digest_attempt}"


def order(uow: UnitOfWork, port_id: str) -> dict[str, Any] | None:
    """What the child process has to do; None when there is nothing to do any more."""
    port = rows.get(uow.session, port_id)
    if port is None or port.state != "ready" or port.digests is not None:
        return None
    return uow.tools.artifacts.merge_order(port.release, port.version, Recipe.from_dict(port.recipe))


def record(uow: UnitOfWork, port_id: str, job: str, held: Claim, result: dict[str, Any]) -> bool:
    """Records digests and the exact merge fidelity; returns False if the port already has them, or is gone.

    Raises:
        DomainError: job.lost.
    """
    if not still_ours(uow.session, job, held):
        raise DomainError("job.lost", job=job)
    port = rows.get(uow.session, port_id)
    if port is None:
        return False
    uow.lock(port)
    if port.state == "purged" or port.digests is not None:
        return False
    port.digests = result["digests"]
    port.fidelity = result["fidelity"]
    port.row_version += 1
    worker = Principal(INSTALLATION, frozenset({"admin"}), job)
    uow.event(PortDigested(files=len(result["digests"])), worker, port.owner, port.id)
    return True

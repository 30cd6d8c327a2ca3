"""The true digests of a port's computed files: made once, by a job, then served and verified."""

from sqlalchemy.orm import Session

from app.db import ports as rows
from app.db.ports import Port
from app.domain.errors import DomainError
from app.domain.events.ports import PortDigested
from app.domain.principal import Principal
from app.services.access.quotas import require_room
from app.services.jobs.kinds import Done, JobKind
from app.services.ports import ports
from app.services.ports.merge_orders import merge_order
from app.services.ports.orders import DigestResult, MergeOrder
from app.services.unit_of_work import UnitOfWork


class PortDigest(JobKind[Port, MergeOrder, DigestResult]):
    """Computes the digests and the exact merge fidelity of a ready port. Only the job records a failure, not the port."""

    name, noun, task, result = "digest", "digest", "app.jobs.tasks.digest", DigestResult
    preload = ("app.core.tensor.arithmetic",)
    merges = True

    def find(self, session: Session, subject: str) -> Port | None:
        return rows.get(session, subject)

    def waits(self, row: Port) -> bool:
        return row.state != "purged" and row.digests is None

    def order(self, uow: UnitOfWork, row: Port) -> MergeOrder | None:
        return merge_order(uow.tools, row) if row.state == "ready" else None

    def record(self, uow: UnitOfWork, row: Port, done: Done[MergeOrder, DigestResult]) -> None:
        row.digests, row.fidelity = dict(done.result.digests), dict(done.result.fidelity) if done.result.fidelity else None
        row.row_version += 1
        uow.event(PortDigested(files=len(done.result.digests)), done.worker, row.owner, row.id)

    def restart(self, uow: UnitOfWork, principal: Principal, subject: str) -> str:
        job = request(uow, principal, subject)[1]
        if job is None:
            raise DomainError("state.move", noun=self.noun, state="done", target="queued")
        return job


PORT_DIGEST = PortDigest()


def request(uow: UnitOfWork, principal: Principal, port_id: str) -> tuple[Port, str | None]:
    """Asks for the digests of a ready port.

    Returns:
        The port, and the job that computes them; None when they are known.
    """
    uow.lock(ports.get(uow, principal, port_id))
    port = ports.readable(uow, principal, port_id)
    if port.digests is not None:
        return port, None
    status = uow.tools.jobs.status(port.job)
    if status and status.state in ("failed", "cancelled"):
        port.digest_attempt += 1
    if status is None or status.state in ("failed", "cancelled"):
        require_room(uow, port.owner, jobs=1)
    return port, PORT_DIGEST.enqueue(uow, port)

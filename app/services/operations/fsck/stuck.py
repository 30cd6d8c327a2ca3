"""Finds stuck rows, for every kind of job: they wait for a job that is neither queued nor running."""

from collections.abc import Iterator

from app.services.jobs.attempts import AnyKind
from app.services.jobs.kinds import kinds_of
from app.services.operations.fsck.troubles import STUCK, Trouble
from app.services.unit_of_work import UnitsOfWork

PAGE = 200
LIVE = ("queued", "running")


def stuck(registry: UnitsOfWork) -> Iterator[Trouble]:
    """Yields the stuck rows. A row is read again before it is reported, because its job may just have ended."""
    with registry.read() as uow:
        waiting = [(kind, *found) for kind in kinds_of(uow).values() for found in kind.unfinished(uow.session)]
    for some in (waiting[start : start + PAGE] for start in range(0, len(waiting), PAGE)):
        statuses = registry.tools.jobs.statuses([job for _, job, _ in some])
        for kind, job, subject in some:
            status = statuses.get(job)
            if status is None or status.state not in LIVE:
                yield from _still(registry, kind, job, subject)


def _still(registry: UnitsOfWork, kind: AnyKind, job: str, subject: str) -> Iterator[Trouble]:
    with registry.read() as uow:
        row, status = kind.find(uow.session, subject), uow.tools.jobs.status(job)
    if row is None or row.job != job or not kind.waits(row) or (status and status.state in LIVE):
        return
    detail = f"It is {row.state}, and its job {job} is {status.state if status else 'not there'}."
    yield Trouble(f"{kind.noun}.{STUCK}", kind.describe(row), detail)

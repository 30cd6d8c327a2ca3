"""The queue of an embedded service that runs no jobs."""

import datetime as dt
from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.services.jobs.workers import CPU
from app.services.tools import JobStatus


class NullQueue:
    """A queue that remembers what was enqueued and runs nothing: for processes that only answer."""

    def __init__(self) -> None:
        self.enqueued: list[tuple[str, str, str]] = []

    def enqueue(
        self,
        session: Session,  # noqa: ARG002  the protocol's
        job: str,
        kind: str,
        subject: str,
        *,
        merges: bool = False,  # noqa: ARG002
        urgent: bool = False,  # noqa: ARG002
    ) -> None:
        if (job, kind, subject) not in self.enqueued:
            self.enqueued.append((job, kind, subject))

    def cancel(self, session: Session, job: str) -> bool:  # noqa: ARG002  the protocol's
        return self.forget(job)

    def forget(self, job: str) -> bool:
        """Removes a job from the queue; returns whether it was there."""
        before = len(self.enqueued)
        self.enqueued = [e for e in self.enqueued if e[0] != job]
        return len(self.enqueued) < before

    def status(self, job: str) -> JobStatus | None:
        return self.statuses([job]).get(job)

    def statuses(self, jobs: Sequence[str]) -> dict[str, JobStatus]:
        return {job: JobStatus(job, "queued", None, None, None, None) for job, _, _ in self.enqueued if job in jobs}

    def waiting(self, session: Session, owner: str) -> int:  # noqa: ARG002  the protocol's
        return sum(job.partition(":")[0] == owner for job, _, _ in self.enqueued)

    def served(self, session: Session) -> set[str]:  # noqa: ARG002  the protocol's
        return {CPU}

    def live(self, session: Session) -> set[str]:  # noqa: ARG002  the protocol's
        return {job for job, _, _ in self.enqueued}

    def finished_before(self, session: Session, moment: dt.datetime, limit: int) -> Sequence[str]:  # noqa: ARG002
        return ()

    def delete(self, jobs: Sequence[str]) -> None:
        """Does nothing, because finished jobs are not recorded."""

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

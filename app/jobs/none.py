"""The queue of an embedded service that runs no jobs."""

from sqlalchemy.orm import Session

from app.services.uow import JobStatus


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

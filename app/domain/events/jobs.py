"""Events about jobs and workers."""

from collections.abc import Mapping
from typing import Annotated, Any

from app.domain.events.base import Code, Detail, OwnerEvent, flattened

Moment = Annotated[str, "ISO 8601"]
JOB, QUEUE = "id of the job", "class of workers"


class _Job(OwnerEvent):
    kind: Annotated[str, "kind of the job"]
    subject: Annotated[str, "id of the object that the job works on"]


class JobStarted(_Job, kind="job.started", subject=JOB):
    """A worker started a job."""

    attempt: Annotated[int, "number of starts of the job so far"]


class JobProgress(_Job, kind="job.progress", subject=JOB):
    """A job made progress; recorded at most every few seconds."""

    progress: Annotated[Mapping[str, Any], "`done`, `total`, `note`, `rate`, `tensors_done`, `tensors_total`"] = flattened()


class JobDone(_Job, kind="job.done", subject=JOB):
    """The result of a job was recorded."""


class JobFailed(_Job, kind="job.failed", subject=JOB):
    """A job failed, or was abandoned."""

    code: Code
    detail: Detail


class JobCancelled(_Job, kind="job.cancelled", subject=JOB):
    """A job was cancelled."""


class JobRetried(_Job, kind="job.retried", subject="id of the new job"):
    """The next attempt of a job was queued."""

    before: Annotated[str, "id of the job that failed or was cancelled"]


class WorkerMissing(OwnerEvent, kind="worker.missing", subject=QUEUE):
    """Jobs are waiting, and no live worker takes jobs of their class."""

    jobs: Annotated[int, "number of waiting jobs"]
    since: Moment


class WorkerResolved(OwnerEvent, kind="worker.resolved", subject=QUEUE):
    """The condition that `worker.missing` reported has ended."""

    since: Moment

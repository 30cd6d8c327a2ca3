"""Bodies of jobs and workers."""

import datetime as dt
from typing import Annotated

from pydantic import Field

from app.api.schemas.base import JobProblem, Out, Time
from app.services.jobs.workers import WorkerStatus
from app.services.tools import JobStatus


class ProgressOut(Out):
    """How far a job is."""

    done: Annotated[int, Field(description="Bytes.", examples=[4194304])]
    total: Annotated[int, Field(description="Bytes.", examples=[32121112752])]
    note: Annotated[str, Field(examples=["Reading"])]
    rate: Annotated[int | None, Field(description="Bytes a second.", examples=[910000000])] = None
    tensors_done: Annotated[int | None, Field(examples=[12])] = None
    tensors_total: Annotated[int | None, Field(examples=[291])] = None


class JobOut(Out):
    """A piece of long work."""

    id: Annotated[str, Field(examples=["registry:ingest:rel_0193a1b2c3d4e5f60718293a4b5c6d7e8f90-1"])]
    kind: Annotated[str, Field(examples=["ingest"])]
    state: Annotated[str, Field(description="queued, running, done, failed or cancelled", examples=["running"])]
    class_name: Annotated[str | None, Field(description="The class of workers that runs it.", examples=["cpu"])]
    attempt: Annotated[int, Field(description="How many times it was started.", examples=[1])]
    waiting_for: Annotated[
        str | None, Field(description="The class of workers that it waits for, where none lives that takes it.", examples=[None])
    ] = None
    progress: ProgressOut | None
    problem: Annotated[JobProblem | None, Field(examples=[None])]
    created_at: Time | None
    updated_at: Time | None

    @classmethod
    def of(cls, job: JobStatus) -> "JobOut":
        return cls(
            id=job.id, kind=job.id.split(":")[1], state=job.state, class_name=job.class_name, attempt=job.attempt,
            waiting_for=job.waiting_for,
            progress=ProgressOut(**job.progress) if job.progress else None,
            problem=JobProblem(**job.problem) if job.problem else None, created_at=_time(job.created_ms),
            updated_at=_time(job.updated_ms),
        )  # fmt: skip


class WorkerOut(Out):
    """A process that runs jobs."""

    id: Annotated[str, Field(examples=["node-7:4711:3f9c2a"])]
    class_name: Annotated[str, Field(examples=["gpu24"])]
    host: Annotated[str, Field(examples=["node-7"])]
    version: Annotated[str, Field(examples=["0.1.0"])]
    labels: Annotated[dict[str, str], Field(examples=[{"rack": "b2"}])]
    device: Annotated[str, Field(examples=["NVIDIA L4"])]
    memory_bytes: Annotated[int, Field(description="Of its device.", examples=[23609475072])]
    url: Annotated[str | None, Field(description="Where it reads merged models, if it does.", examples=["http://node-7:8100"])]
    alive: Annotated[bool, Field(description="Whether it gave a sign of life lately.", examples=[True])]
    jobs: Annotated[list[str], Field(description="What it does now.", examples=[["acme:digest:prt_0193a1b2-0"]])]
    started_at: Time
    seen_at: Time

    @classmethod
    def of(cls, worker: WorkerStatus) -> "WorkerOut":
        row = worker.row
        return cls(
            id=row.id, class_name=row.class_name, host=row.host, version=row.version, labels=row.labels, device=row.device,
            memory_bytes=row.memory_bytes, url=row.url, alive=worker.alive, jobs=worker.jobs, started_at=row.started_at,
            seen_at=row.seen_at,
        )  # fmt: skip


class WorkersOut(Out):
    """All workers."""

    items: list[WorkerOut]


class AboutOut(Out):
    """What a worker is."""

    id: Annotated[str, Field(examples=["node-7:4711:3f9c2a"])]
    class_name: Annotated[str, Field(examples=["gpu24"])]
    version: Annotated[str, Field(examples=["0.1.0"])]
    device: Annotated[str, Field(examples=["NVIDIA L4"])]
    memory_bytes: Annotated[int, Field(description="Of its device.", examples=[23609475072])]
    labels: Annotated[dict[str, str], Field(examples=[{"rack": "b2"}])]


def _time(milliseconds: int | None) -> dt.datetime | None:
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC) if milliseconds else None

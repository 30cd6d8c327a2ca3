"""Bodies of materialisations."""

from typing import Annotated

from pydantic import Field

from app.api.schemas.base import Bytes, In, JobProblem, Out, Time
from app.db.materialisations import Materialisation


class MaterialiseIn(In):
    """Where a merged model is to be written."""

    to: Annotated[
        str,
        Field(
            min_length=1, max_length=1100, description="s3://bucket/prefix below a place that an admin listed.",
            examples=["s3://models/acme/tone-v2"],
        ),
    ]  # fmt: skip


class WrittenFileOut(Out):
    """A file that was written; `copied` bytes were copied by the store itself, `moved` passed through a worker."""

    path: Annotated[str, Field(examples=["model.safetensors"])]
    size: Bytes
    copied: Annotated[int, Field(examples=[1536])]
    moved: Annotated[int, Field(examples=[512])]


class WrittenOut(Out):
    """What was written."""

    files: list[WrittenFileOut]
    bytes_copied: Annotated[int, Field(examples=[1536])]
    bytes_moved: Annotated[int, Field(examples=[512])]


class MaterialisationOut(Out):
    """A merged model at a place."""

    id: Annotated[str, Field(examples=["mat_0193a1b2c3d4e5f60718293a4b5c6d7e8f90"])]
    port: Annotated[str, Field(examples=["prt_0193a1b2c3d4e5f60718293a4b5c6d7e8f90"])]
    target: Annotated[str, Field(examples=["s3://models/acme/tone-v2"])]
    state: Annotated[str, Field(description="queued, running, done, failed, cancelled or purged", examples=["done"])]
    result: WrittenOut | None
    problem: Annotated[JobProblem | None, Field(examples=[None])]
    job: Annotated[str, Field(examples=["acme:materialise:mat_0193a1b2c3d4e5f60718293a4b5c6d7e8f90-1"])]
    created_at: Time
    finished_at: Time | None

    @classmethod
    def of(cls, row: Materialisation) -> "MaterialisationOut":
        return cls(
            id=row.id, port=row.port_id, target=row.target, state=row.state,
            result=WrittenOut(**row.result) if row.result else None, problem=JobProblem(**row.problem) if row.problem else None,
            job=row.job, created_at=row.created_at, finished_at=row.finished_at,
        )  # fmt: skip

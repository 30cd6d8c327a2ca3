"""Bodies of families and releases."""

from typing import Annotated, Any

from pydantic import Field

from app.api.schemas.base import Bytes, In, JobProblem, Name, Out, Reason, Sha256, Text, Time
from app.db.families import Family
from app.db.releases import Release


class FamilyIn(In):
    """A family to create."""

    name: Annotated[Name, Field(examples=["llama-3-8b"])]
    description: Annotated[Text, Field(examples=["Llama 3, 8 billion parameters"])] = ""
    readers: Annotated[
        tuple[Name, ...],
        Field(max_length=100, description="Owners that may see it besides admins; `*`: everybody.", examples=[["acme"]]),
    ] = ()


class GrantsOut(Out):
    """Who may see a family, besides admins."""

    family: Annotated[str, Field(examples=["llama-3-8b"])]
    readers: Annotated[list[str], Field(description="Owners; `*`: everybody.", examples=[["acme"]])]


class FamilyOut(Out):
    """A line of base models."""

    name: Annotated[str, Field(examples=["llama-3-8b"])]
    description: Annotated[str, Field(examples=["Llama 3, 8 billion parameters"])]
    created_at: Time

    @classmethod
    def of(cls, row: Family) -> "FamilyOut":
        return cls(name=row.name, description=row.description, created_at=row.created_at)


class ReleaseIn(In):
    """A release to register from where it lies."""

    name: Annotated[Name, Field(examples=["v2"])]
    directory: Annotated[
        str,
        Field(
            min_length=1, max_length=4096,
            description="A directory where the service runs, s3://bucket/prefix, or UPSTREAM:org/name@revision of another hub.",
            examples=["/models/llama-3-8b/v2"],
        ),
    ]  # fmt: skip
    parent: Annotated[str | None, Field(max_length=89, description="The release that this one continues.", examples=["v1"])] = (
        None
    )
    copy_files: Annotated[
        bool, Field(alias="copy", description="Copy the bytes; otherwise they stay where they are and are checked at every open.")
    ] = False


class OriginOut(Out):
    """Where a release was pulled from."""

    upstream: Annotated[str, Field(examples=["hf"])]
    endpoint: Annotated[str, Field(examples=["https://huggingface.co"])]
    repository: Annotated[str, Field(examples=["org/name"])]
    revision: Annotated[str, Field(description="As it was asked for.", examples=["main"])]
    commit: Annotated[str, Field(description="What it meant then.", examples=["5d0f2e8a7c9b1d3f5a6b8c0e2f4a6b8c0d1e2f3a"])]


class ReleaseOut(Out):
    """One drop of a family."""

    id: Annotated[str, Field(examples=["rel_0193a1b2c3d4e5f60718293a4b5c6d7e8f90"])]
    family: Annotated[str, Field(examples=["llama-3-8b"])]
    name: Annotated[str, Field(examples=["v2"])]
    parent: Annotated[str | None, Field(examples=["v1"])]
    state: Annotated[str, Field(description="ingesting, ready, rejected or yanked", examples=["ready"])]
    source: Annotated[str, Field(examples=["/models/llama-3-8b/v2"])]
    copied: Annotated[bool, Field(examples=[False])]
    origin: Annotated[OriginOut | None, Field(description="null: it was not pulled from another hub.", examples=[None])]
    manifest: Annotated[Sha256 | None, Field(description="sha256 of the manifest: the release's natural key")]
    total_bytes: Bytes | None
    summary: Annotated[dict[str, Any] | None, Field(examples=[{"model_type": "llama", "tensors": 291, "dtypes": ["BF16"]}])]
    problem: Annotated[JobProblem | None, Field(examples=[None])]
    yank_reason: Reason
    job: Annotated[
        str,
        Field(description="The job that reads it", examples=["registry:ingest:rel_0193a1b2c3d4e5f60718293a4b5c6d7e8f90-1"]),
    ]
    created_at: Time
    ready_at: Time | None

    @classmethod
    def of(cls, row: Release) -> "ReleaseOut":
        return cls(
            id=row.id, family=row.family.name, name=row.name, parent=row.parent.name if row.parent else None, state=row.state,
            source=row.source, copied=row.copied, origin=OriginOut(**row.origin) if row.origin else None,
            manifest=row.manifest, total_bytes=row.total_bytes, summary=row.summary,
            problem=JobProblem(**row.problem) if row.problem else None, yank_reason=row.yank_reason,
            job=row.job, created_at=row.created_at, ready_at=row.ready_at,
        )  # fmt: skip

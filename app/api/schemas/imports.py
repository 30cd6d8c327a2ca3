"""Bodies of imports."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from app.api.schemas.base import In, JobProblem, Name, Out, Time
from app.db.imports import Import
from app.domain.upstreams import MAX_REFERENCE
from app.services.patches.imports import ImportRequest

Source = Annotated[str, StringConstraints(min_length=1, max_length=MAX_REFERENCE)]


class ImportIn(In):
    """Patches to import from other hubs."""

    sources: Annotated[
        tuple[Source, ...],
        Field(
            min_length=1, max_length=100, examples=[["hub:org/adapter@main"]],
            description="UPSTREAM:org/name@revision each, or UPSTREAM:org/* for all adapters of an organisation.",
        ),
    ]  # fmt: skip
    owner: Annotated[Name | None, Field(description="Of the patches; null: the token's.", examples=["acme"])] = None
    trained_on: Annotated[
        Name | None,
        Field(description='A release, or "unknown"; null: what the name of the base says.', examples=["v1"]),
    ] = None
    name: Annotated[
        Name | None, Field(description="Of the patch, where it is one; null: made of the repository's.", examples=["tone"])
    ] = None

    def wish(self) -> ImportRequest:
        return ImportRequest(self.sources, self.owner, self.trained_on, self.name)


class BatchOut(Out):
    """Imports that were begun together: list them with GET /imports?batch=."""

    batch: Annotated[str, Field(examples=["bat_0193a1b2c3d4e5f60718293a4b5c6d7e8f90"])]
    count: Annotated[int, Field(examples=[1])]


class ImportOut(Out):
    """One repository on its way to become a version of a patch."""

    id: Annotated[str, Field(examples=["imp_0193a1b2c3d4e5f60718293a4b5c6d7e8f90"])]
    batch: Annotated[str, Field(examples=["bat_0193a1b2c3d4e5f60718293a4b5c6d7e8f90"])]
    source: Annotated[str, Field(examples=["hf:org/adapter@main"])]
    commit: Annotated[str | None, Field(examples=["5d0f2e8a7c9b1d3f5a6b8c0e2f4a6b8c0d1e2f3a"])]
    patch: Annotated[str, Field(examples=["acme/adapter"])]
    version: Annotated[int | None, Field(examples=[1])]
    state: Annotated[
        str,
        Field(
            description="queued, running, imported, present (it was here already), refused or cancelled", examples=["imported"]
        ),
    ]
    facts: Annotated[
        dict[str, Any] | None,
        Field(
            description="What it is based on, and what was left out.",
            examples=[{"base_model": "org/base", "family": "llama", "trained_on": "v1", "bytes": 2048, "dropped": []}],
        ),
    ]
    problem: Annotated[JobProblem | None, Field(examples=[None])]
    job: Annotated[str, Field(examples=["acme:import:imp_0193a1b2c3d4e5f60718293a4b5c6d7e8f90-1"])]
    created_at: Time
    finished_at: Time | None

    @classmethod
    def of(cls, row: Import) -> "ImportOut":
        return cls(
            id=row.id, batch=row.batch, source=f"{row.upstream}:{row.repository}@{row.revision}", commit=row.commit,
            patch=row.patch, version=row.version.number if row.version else None, state=row.state, facts=row.facts,
            problem=JobProblem(**row.problem) if row.problem else None, job=row.job, created_at=row.created_at,
            finished_at=row.finished_at,
        )  # fmt: skip

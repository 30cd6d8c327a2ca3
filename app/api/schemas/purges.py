"""Bodies of erasures."""

from typing import Annotated

from pydantic import Field

from app.api.schemas.base import Bytes, Out, Sha256, Time

Removed = Annotated[bool, Field(description="It was asked for again, and is not there.", examples=[True])]
KeptFor = Annotated[
    str | None,
    Field(
        description="Who else has the same bytes, which stay for that; names only of the same owner's.",
        examples=["acme/other@2, a version of another owner"],
    ),
]
Problem = Annotated[str | None, Field(description="Why it is not removed yet; it is tried again.", examples=[None])]


class ErasedBlobOut(Out):
    """The bytes of one file in the registry's own store."""

    digest: Sha256
    size: Bytes
    removed: Removed
    kept_for: KeptFor
    problem: Problem


class ErasedCopyOut(Out):
    """A place that a merged model was written to, or was to be."""

    target: Annotated[str, Field(examples=["s3://models/acme/tone-v2"])]
    removed: Removed
    objects: Annotated[
        int, Field(description="How many objects, versions of objects and unfinished ones were removed.", examples=[5])
    ]
    kept_for: KeptFor
    problem: Problem


class ErasureOut(Out):
    """What became of a purged version's bytes."""

    state: Annotated[str, Field(description="pending, or done: nothing is there but what others have too", examples=["done"])]
    blobs: list[ErasedBlobOut]
    copies: list[ErasedCopyOut]
    waits_for: Annotated[str | None, Field(description="What else must end first.", examples=[None])]
    checked_at: Annotated[Time | None, Field(description="When the stores were asked last.")]

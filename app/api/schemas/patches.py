"""Bodies of patches, versions and aliases."""

from typing import Annotated, Any

from pydantic import Field

from app.api.schemas.base import Bytes, FilePath, In, Name, Out, Reason, Sha256, Text, Time
from app.api.schemas.purges import ErasureOut
from app.db.patches import Patch, PatchLine, PatchVersion
from app.domain.names import UNKNOWN

DEFAULT_RELEASE = "The release that a push was trained on whose adapter_config.json does not tell."


class PatchIn(In):
    """A patch to create."""

    owner: Annotated[Name, Field(examples=["acme"])]
    name: Annotated[Name, Field(examples=["tone"])]
    family: Annotated[Name, Field(examples=["llama-3-8b"])]
    description: Annotated[Text, Field(examples=["How acme answers its customers"])] = ""
    trained_on: Annotated[Name | None, Field(description=DEFAULT_RELEASE, examples=["v1"])] = None


class PatchChange(In):
    """What can change about a patch; what is left out stays."""

    description: Annotated[Text, Field(examples=["How acme answers its customers"])] = ""
    trained_on: Annotated[Name | None, Field(description=DEFAULT_RELEASE, examples=["v1"])] = None


class PublishIn(In):
    """What a push was trained on that does not tell itself."""

    trained_on: Annotated[Name, Field(description='A ready release of the family, or "unknown".', examples=["v1"])]
    family: Annotated[Name | None, Field(description="Where the patch has none yet.", examples=["llama-3-8b"])] = None


class PatchOut(Out):
    """What a team owns."""

    owner: Annotated[str, Field(examples=["acme"])]
    name: Annotated[str, Field(examples=["tone"])]
    family: Annotated[str, Field(examples=["llama-3-8b"])]
    description: Annotated[str, Field(examples=["How acme answers its customers"])]
    trained_on: Annotated[str | None, Field(description=DEFAULT_RELEASE, examples=[None])] = None
    created_at: Time
    aliases: Annotated[dict[str, int | None], Field(description="alias -> version", examples=[{"prod": 3}], default_factory=dict)]

    @classmethod
    def of_line(cls, line: PatchLine) -> "PatchOut":
        """In a list, without its aliases."""
        owner, name, family, description, created_at = line[1:]
        return cls(owner=owner, name=name, family=family, description=description, created_at=created_at, aliases={})

    @classmethod
    def of(cls, row: Patch, aliases: dict[str, int | None] | None = None) -> "PatchOut":
        return cls(
            owner=row.owner, name=row.name, family=row.family.name, description=row.description, created_at=row.created_at,
            trained_on=row.trained_on, aliases=aliases or {},
        )  # fmt: skip


class FileIn(In):
    """A file that will be uploaded."""

    path: Annotated[FilePath, Field(examples=["adapter_model.safetensors"])]
    size: Annotated[int, Field(ge=0, lt=2**63, examples=[2048])]
    sha256: Annotated[
        str, Field(min_length=64, max_length=64, examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"])
    ]


class VersionIn(In):
    """A version to upload: announce every file, then send those that `uploads` lists, then publish."""

    trained_on: Annotated[Name, Field(description='A ready release of the family, or "unknown".', examples=["v1"])]
    files: Annotated[list[FileIn], Field(min_length=1, max_length=10_000, fail_fast=True)]


class UploadOut(Out):
    """Where the bytes of one file go."""

    path: Annotated[str, Field(examples=["adapter_model.safetensors"])]
    url: Annotated[
        str,
        Field(
            description="PATCH bytes here with Upload-Offset; HEAD tells how many have arrived.",
            examples=["/api/v1/uploads/ver_0193a1b2c3d4e5f60718293a4b5c6d7e8f90/files/adapter_model.safetensors"],
        ),
    ]
    size: Bytes
    received: Annotated[int, Field(examples=[0])]
    direct: Annotated[
        bool, Field(description="Whether it can be sent straight to the store: POST /uploads/{id}/direct.", examples=[False])
    ] = False


class DirectIn(In):
    """A file that is to be sent straight to the store."""

    path: Annotated[FilePath, Field(examples=["adapter_model.safetensors"])]


class PartOut(Out):
    """A part to PUT: bytes [offset, offset + size) of the file, with no header but Content-Length."""

    number: Annotated[int, Field(examples=[1])]
    offset: Annotated[int, Field(examples=[0])]
    size: Bytes
    url: Annotated[str, Field(examples=["https://s3.example.com/bucket/staging/ver_0193/0/whole?partNumber=1&uploadId=abc"])]


class DirectOut(Out):
    """The parts that the store does not have yet; none when all of the file is there. Ask again to go on after a break."""

    part_size: Annotated[int, Field(description="Size of all parts but the last, in bytes.", examples=[16777216])]
    parts: list[PartOut]


class FileOut(Out):
    """A file of a version."""

    path: Annotated[str, Field(examples=["adapter_model.safetensors"])]
    size: Bytes
    sha256: Sha256


class VersionOut(Out):
    """One upload of a patch."""

    id: Annotated[str, Field(examples=["ver_0193a1b2c3d4e5f60718293a4b5c6d7e8f90"])]
    patch: Annotated[str, Field(examples=["acme/tone"])]
    family: Annotated[str, Field(examples=["llama-3-8b"])]
    number: Annotated[int | None, Field(description="Given when it is published", examples=[1])]
    state: Annotated[str, Field(description="draft, published, yanked, purged or discarded", examples=["published"])]
    digest: Annotated[Sha256, Field(description="sha256 over the paths and digests of its files")]
    trained_on: Annotated[str, Field(examples=["v1"])]
    files: list[FileOut]
    dropped: Annotated[
        list[str],
        Field(description="Announced files that do not belong to a patch; they are not stored.", examples=[["optimizer.pt"]]),
    ]
    total_bytes: Bytes
    facts: Annotated[dict[str, Any] | None, Field(examples=[{"rank": 8, "alpha": 16.0, "modules": 28}])]
    yank_reason: Reason
    uploads: Annotated[list[UploadOut], Field(description="For drafts: what is to be sent.", default_factory=list)]
    created_at: Time
    published_at: Time | None
    purged_at: Annotated[Time | None, Field(examples=[None])] = None
    purged_by: Annotated[str | None, Field(description="Owner and token of who purged it", examples=[None])] = None
    purge_reason: Reason = None
    erasure: Annotated[ErasureOut | None, Field(description="Of a purged one: what became of its bytes", examples=[None])] = None

    @classmethod
    def of(cls, row: PatchVersion, received: dict[str, int] | None = None, direct: bool = False) -> "VersionOut":
        uploads = []
        for f in row.files if received is not None else ():
            arrived = (received or {})[f["path"]]
            url = upload_url(row.id, f["path"])
            uploads.append(UploadOut(path=f["path"], url=url, size=f["size"], received=arrived, direct=direct and f["size"] > 0))
        return cls(
            id=row.id, patch=row.patch.full_name, family=row.patch.family.name, number=row.number, state=row.state,
            digest=row.digest, trained_on=row.trained_on.name if row.trained_on else UNKNOWN,
            files=[FileOut(**f) for f in row.files], dropped=row.dropped, total_bytes=row.total_bytes, facts=row.facts,
            yank_reason=row.yank_reason, uploads=uploads, created_at=row.created_at, published_at=row.published_at,
            purged_at=row.purged_at, purged_by=row.purged_by, purge_reason=row.purge_reason,
            erasure=ErasureOut(**row.erasure) if row.erasure else None,
        )  # fmt: skip


def upload_url(upload: str, path: str) -> str:
    """Where a file of a draft is sent."""
    return f"/api/v1/uploads/{upload}/files/{path}"


class AliasIn(In):
    """Where an alias points: a version number, another alias, or main."""

    version: Annotated[str, Field(min_length=1, max_length=89, examples=["3"])]


class AliasOut(Out):
    """A movable name for a version."""

    patch: Annotated[str, Field(examples=["acme/tone"])]
    alias: Annotated[str, Field(examples=["prod"])]
    version: Annotated[int | None, Field(examples=[3])]

"""Bodies of ports and merged files."""

from typing import Annotated, Any

from pydantic import Field

from app.api.schemas.base import Bytes, In, Name, Out, Reason, Sha256, Time
from app.core.recipe import DTYPES, PLAIN, TOKENIZERS, Recipe
from app.core.strategies import STRATEGIES
from app.db.ports import Port, PortLine
from app.domain.names import UNKNOWN
from app.services.ports.ports import PortRequest, Verdict

Reference = Annotated[str, Field(max_length=89)]


class RecipeIn(In):
    """The choices about a port."""

    strategy: Annotated[
        str,
        Field(
            max_length=40,
            description=" ".join(known.summary for known in STRATEGIES.values()),
            examples=["add"],
            json_schema_extra={"enum": [*STRATEGIES]},
        ),
    ] = PLAIN.strategy
    dtype: Annotated[
        str | None,
        Field(
            max_length=40,
            description="Of all float tensors; null: as in the release.",
            examples=[None],
            json_schema_extra={"enum": [*DTYPES, None]},
        ),
    ] = None
    tokenizer: Annotated[
        str,
        Field(
            max_length=40, description="Whose tokenizer.", examples=["release"], json_schema_extra={"enum": [*TOKENIZERS]},
        ),
    ] = PLAIN.tokenizer  # fmt: skip


class PortIn(In):
    """A patch version to carry to a release."""

    patch: Annotated[str, Field(min_length=3, max_length=200, pattern="^[^/]+/[^/]+$", examples=["acme/tone"])]
    release: Annotated[Name, Field(examples=["v2"])]
    version: Annotated[Reference | int | None, Field(description="Number or alias; null: the newest.", examples=[1])] = None
    family: Annotated[
        str | None, Field(max_length=89, description="If given, must be the patch's family.", examples=["llama-3-8b"])
    ] = None
    recipe: RecipeIn = RecipeIn()
    force: Annotated[
        str | None, Field(max_length=2000, description="A reason why a finding about lineage does not hold.", examples=[None])
    ] = None

    def wish(self) -> PortRequest:
        owner, patch = self.patch.split("/")
        version = None if self.version is None else str(self.version)[:89]
        recipe = Recipe(self.recipe.strategy, self.recipe.dtype, self.recipe.tokenizer)
        return PortRequest(owner, patch, version, self.release, self.family, recipe, self.force)


class FindingOut(Out):
    """One reason for or against."""

    code: Annotated[str, Field(examples=["lineage.measured"])]
    severity: Annotated[str, Field(description="refuse, warn or info", examples=["info"])]
    message: Annotated[str, Field(examples=["Cosine 0.9999, drift 1.01% from the release it was trained on."])]
    data: Annotated[dict[str, Any], Field(examples=[{"cosine": 0.9999, "bytes_read": 67108864}])]


class FidelityOut(Out):
    """The share of the patch that survives rounding to the output dtype."""

    overall: Annotated[float, Field(examples=[0.97])]
    worst: Annotated[float, Field(examples=[0.91])]
    worst_tensor: Annotated[str, Field(examples=["model.layers.0.self_attn.q_proj.weight"])]
    sampled: Annotated[
        bool, Field(description="From sampled rows; the digest job replaces it by the exact figure.", examples=[True])
    ]
    bytes_read: Annotated[int, Field(examples=[16777216])]


class VerdictOut(Out):
    """What a port would be."""

    patch: Annotated[str, Field(examples=["acme/tone"])]
    version: Annotated[int | None, Field(examples=[1])]
    release: Annotated[str, Field(examples=["v2"])]
    state: Annotated[str, Field(description="ready, held or refused", examples=["ready"])]
    findings: list[FindingOut]
    fidelity: FidelityOut | None
    fingerprint: Sha256
    tensors_changed: Annotated[int, Field(examples=[224])]

    @classmethod
    def of(cls, v: Verdict) -> "VerdictOut":
        return cls(
            patch=v.version.patch.full_name, version=v.version.number, release=v.release.name, state=v.state,
            findings=[FindingOut(**f.to_dict()) for f in v.findings],
            fidelity=FidelityOut(**v.fidelity) if v.fidelity else None, fingerprint=v.fingerprint,
            tensors_changed=v.tensors_changed,
        )  # fmt: skip


class PortOut(Out):
    """A patch version carried to a release."""

    id: Annotated[str, Field(examples=["prt_0193a1b2c3d4e5f60718293a4b5c6d7e8f90"])]
    patch: Annotated[str, Field(examples=["acme/tone"])]
    version: Annotated[int | None, Field(examples=[1])]
    family: Annotated[str, Field(examples=["llama-3-8b"])]
    release: Annotated[str, Field(examples=["v2"])]
    trained_on: Annotated[str, Field(examples=["v1"])]
    state: Annotated[str, Field(description="ready, held, refused, retired or purged", examples=["ready"])]
    recipe: Annotated[dict[str, Any], Field(examples=[PLAIN.to_dict()])]
    fingerprint: Annotated[Sha256, Field(description="Names the merged bytes.")]
    findings: list[FindingOut]
    fidelity: FidelityOut | None
    forced: Annotated[bool, Field(examples=[False])]
    reason: Reason
    digested: Annotated[bool, Field(description="Whether the sha256 of the computed files is known.", examples=[False])]
    created_at: Time
    ready_at: Time | None

    @classmethod
    def of_line(cls, line: PortLine) -> "PortOut":
        """In a list."""
        return cls(
            id=line.id, patch=f"{line.owner}/{line.name}", version=line.version, family=line.family, release=line.release,
            trained_on=line.trained_on or UNKNOWN, state=line.state, recipe=line.recipe, fingerprint=line.fingerprint,
            findings=[FindingOut(**f) for f in line.findings], fidelity=FidelityOut(**line.fidelity) if line.fidelity else None,
            forced=line.forced, reason=line.reason, digested=line.digests is not None, created_at=line.created_at,
            ready_at=line.ready_at,
        )  # fmt: skip

    @classmethod
    def of(cls, row: Port) -> "PortOut":
        version = row.version
        return cls(
            id=row.id, patch=version.patch.full_name, version=version.number, family=version.patch.family.name,
            release=row.release.name, trained_on=version.trained_on.name if version.trained_on else UNKNOWN, state=row.state,
            recipe=row.recipe, fingerprint=row.fingerprint, findings=[FindingOut(**f) for f in row.findings],
            fidelity=FidelityOut(**row.fidelity) if row.fidelity else None, forced=row.forced, reason=row.reason,
            digested=row.digests is not None, created_at=row.created_at, ready_at=row.ready_at,
        )  # fmt: skip


class MergedFileOut(Out):
    """A file of a merged model."""

    path: Annotated[str, Field(examples=["model.safetensors"])]
    size: Bytes
    etag: Annotated[str, Field(examples=["2fd4e1c67a2d28fced849ee1bb76e7391b93eb12"])]
    sha256: Annotated[Sha256 | None, Field(description="Known for carried files; for computed ones after the digest job.")]
    computed: Annotated[bool, Field(description="Made while it is read; otherwise carried byte for byte.", examples=[True])]


class MergedFilesOut(Out):
    """All files of a merged model."""

    port: Annotated[str, Field(examples=["prt_0193a1b2c3d4e5f60718293a4b5c6d7e8f90"])]
    fingerprint: Sha256
    total_bytes: Bytes
    files: list[MergedFileOut]


class DigestOut(Out):
    """The digests of a port's computed files, or the job that makes them."""

    port: Annotated[str, Field(examples=["prt_0193a1b2c3d4e5f60718293a4b5c6d7e8f90"])]
    digests: Annotated[dict[str, str] | None, Field(examples=[None])]
    job: Annotated[str | None, Field(examples=["acme:digest:prt_0193a1b2c3d4e5f60718293a4b5c6d7e8f90-0"])]

"""Events about patches, their versions and aliases, and imports."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from app.domain.events.base import Code, OwnerEvent, Reason, for_handlers

Number = Annotated[int | None, "number of the version"]
TrainedOn = Annotated[str, "name of the release that it was trained on, or `unknown`"]
Repository = Annotated[str, "name of the repository upstream"]
PATCH, VERSION, ALIAS = "OWNER/NAME", "OWNER/NAME@NUMBER", "OWNER/NAME@ALIAS"


class RepositoryAnnounced(OwnerEvent, kind="repository.announced", subject=PATCH):
    """A repository was created over the Hub protocol, before its patch has a family."""


class RepositoryForgotten(OwnerEvent, kind="repository.forgotten", subject=PATCH):
    """A repository that never became a patch was removed."""


class PatchCreated(OwnerEvent, kind="patch.created", subject=PATCH):
    """A patch was created."""

    family: Annotated[str, "name of its family"]


class PatchChanged(OwnerEvent, kind="patch.changed", subject=PATCH):
    """The description of a patch was changed, or the release that its versions are assumed to be trained on."""


class VersionPublished(OwnerEvent, kind="version.published", subject=VERSION):
    """A version was published."""

    trained_on: TrainedOn
    version_id: str = for_handlers()
    front: Mapping[str, str | list[str]] = for_handlers()  # of its README.md


class VersionYanked(OwnerEvent, kind="version.yanked", subject=VERSION):
    """A version was hidden from selection; pinned reads continue."""

    reason: Reason


class VersionPurged(OwnerEvent, kind="version.purged", subject=VERSION):
    """A version was purged: it can no longer be read, and its bytes are being erased."""

    reason: Reason
    digest: Annotated[str, "digest of the version"]


class VersionErased(OwnerEvent, kind="version.erased", subject=VERSION):
    """The erasure of a purged version was completed."""

    blobs: Annotated[int, "number of files that were removed"]
    kept: Annotated[int, "number of files that were kept because something else references them"]
    copies: Annotated[int, "number of materialised merged models that were checked"]


class AliasMoved(OwnerEvent, kind="alias.moved", subject=ALIAS):
    """An alias was created or set."""

    version: Number


class AliasRemoved(OwnerEvent, kind="alias.removed", subject=ALIAS):
    """An alias was removed."""

    version: Number


class ImportRequested(OwnerEvent, kind="import.requested", subject="id of the batch"):
    """Imports of patches from an upstream hub were requested."""

    sources: Annotated[Sequence[str], "the first twenty sources"]
    count: Annotated[int, "number of repositories"]


class _Import(OwnerEvent):
    upstream: Annotated[str, "name of the upstream"]
    repository: Repository
    commit: Annotated[str | None, "commit id upstream"]


class ImportImported(_Import, kind="import.imported", subject=PATCH):
    """An import created a version."""


class ImportPresent(_Import, kind="import.present", subject=PATCH):
    """An import found that its files are already published."""


class _ImportEnded(OwnerEvent):
    code: Code
    repository: Repository


class ImportRefused(_ImportEnded, kind="import.refused", subject=PATCH):
    """An import failed or was refused."""


class ImportCancelled(_ImportEnded, kind="import.cancelled", subject=PATCH):
    """An import was cancelled."""

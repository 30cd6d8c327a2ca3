"""Events about families and releases."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from app.domain.events.base import Code, Detail, FamilyEvent, OwnerEvent, Reason, for_handlers

Path = Annotated[str, "path of the file"]
FAMILY, RELEASE = "FAMILY", "FAMILY/RELEASE"


class FamilyCreated(FamilyEvent, kind="family.created", subject=FAMILY):
    """A family was created."""


class _Grant(FamilyEvent, OwnerEvent):
    to: Annotated[str, "the owner, or `*` for everybody; of a single owner, only that owner sees the event"]


class FamilyGranted(_Grant, kind="family.granted", subject=FAMILY):
    """An owner may see a family from now on."""


class FamilyWithdrawn(_Grant, kind="family.withdrawn", subject=FAMILY):
    """An owner may no longer see a family."""


class _BaseAlias(FamilyEvent):
    name: Annotated[str, "the upstream name, as `base_model_name_or_path` says it"]
    revision: Annotated[str | None, "the upstream revision, if the name is only for one"]


class FamilyNamed(_BaseAlias, kind="family.named", subject="FAMILY or FAMILY/RELEASE, which the name means"):
    """An upstream name of a family or a release was recorded."""


class FamilyUnnamed(_BaseAlias, kind="family.unnamed", subject=FAMILY):
    """An upstream name was removed."""


class ReleaseRegistered(FamilyEvent, kind="release.registered", subject=RELEASE):
    """The ingestion of a release began, for the first time or again."""

    source: Annotated[str, "where its files come from"]


class ReleaseReady(FamilyEvent, kind="release.ready", subject=RELEASE):
    """A release was ingested: patches can be carried to it."""

    manifest: Annotated[str, "digest of its manifest"]
    bytes: Annotated[int, "size of its files"]
    release_id: str = for_handlers()
    files: Sequence[tuple[str, int, str]] = for_handlers()  # path, size and sha256
    front: Mapping[str, str | list[str]] = for_handlers()  # of its README.md


class ReleaseRejected(FamilyEvent, kind="release.rejected", subject=RELEASE):
    """A release could not be ingested, or its ingestion was cancelled."""

    code: Code
    detail: Detail


class ReleaseYanked(FamilyEvent, kind="release.yanked", subject=RELEASE):
    """A release was hidden from selection; pinned reads continue."""

    reason: Reason


class ReleaseDamaged(FamilyEvent, kind="release.damaged", subject=RELEASE):
    """A file of a release by reference no longer has the bytes that were registered; the release is not read any more."""

    path: Path


class ReleaseReaccepted(FamilyEvent, kind="release.reaccepted", subject=RELEASE):
    """The files of a release by reference were verified again."""

    files: Annotated[int, "how many"]

"""Events about families and releases."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from app.domain.events.base import Code, Detail, FamilyEvent, OwnerEvent, Reason, for_handlers

Path = Annotated[str, "path of the file"]
FAMILY, RELEASE = "FAMILY", "FAMILY/RELEASE"


class FamilyCreated(FamilyEvent, kind="family.created", subject=FAMILY):
    """A family was created."""


class _Grant(FamilyEvent, OwnerEvent):
    to: Annotated[str, "the owner, or `*` for everybody; if it is one owner, only that owner and admins can see the event"]


class FamilyGranted(_Grant, kind="family.granted", subject=FAMILY):
    """A family was granted to an owner."""


class FamilyWithdrawn(_Grant, kind="family.withdrawn", subject=FAMILY):
    """The grant of a family to an owner was withdrawn."""


class _BaseAlias(FamilyEvent):
    name: Annotated[str, "the upstream name, as in `base_model_name_or_path`"]
    revision: Annotated[str | None, "the upstream revision, if only one is meant"]


class FamilyNamed(_BaseAlias, kind="family.named", subject="the FAMILY or FAMILY/RELEASE that the name refers to"):
    """A base alias (an upstream name of a family or release) was added."""


class FamilyUnnamed(_BaseAlias, kind="family.unnamed", subject=FAMILY):
    """A base alias was removed."""


class ReleaseRegistered(FamilyEvent, kind="release.registered", subject=RELEASE):
    """The ingestion of a release was started or restarted."""

    source: Annotated[str, "where its files come from"]


class ReleaseReady(FamilyEvent, kind="release.ready", subject=RELEASE):
    """A release was ingested; patches can now be ported to it."""

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
    """A file of a release by reference differs from the registered bytes; the release can no longer be read."""

    path: Path


class ReleaseReaccepted(FamilyEvent, kind="release.reaccepted", subject=RELEASE):
    """The files of a release by reference were verified again and accepted."""

    files: Annotated[int, "number of files"]

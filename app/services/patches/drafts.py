"""How a version comes to be: drafted, its bytes received and verified, published once under the next number."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.blobs.s3.direct import part_bytes
from app.core.front_matter import FrontMatter
from app.core.patch import choose_files
from app.core.recipe import digest_of
from app.db import patches as rows
from app.db.base import clock, now
from app.db.errors import CollisionError
from app.db.patches import Patch, PatchVersion
from app.domain.errors import DomainError
from app.domain.events.patches import VersionPublished
from app.domain.ids import new_id
from app.domain.names import UNKNOWN
from app.domain.principal import Principal
from app.domain.states import move
from app.services.access.quotas import open_account
from app.services.catalog import releases
from app.services.patches import draft_files, patches
from app.services.unit_of_work import UnitOfWork

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class AnnouncedFile:
    """A file that a client is about to upload; size in bytes, sha256 in hex.

    Attributes:
        staged: the upload that already holds its bytes, if they were pushed before.
        kept: the bytes are the owner's, and were hashed here: whether they are still staged or in the store is all the same.
    """

    path: str
    size: int
    sha256: str
    staged: str | None = None
    kept: bool = False

    def row(self) -> dict[str, Any]:
        """What a draft remembers of it."""
        pushed = {"staged": self.staged, "kept": self.kept} if self.staged or self.kept else {}
        return {"path": self.path, "size": self.size, "sha256": self.sha256, **pushed}


@dataclass(frozen=True)
class VersionFacts:
    """The results of verifying a version: a summary for display, and the front matter of its README.md."""

    summary: Mapping[str, Any]
    front: FrontMatter = field(default_factory=dict)


def draft(
    uow: UnitOfWork, principal: Principal, owner: str, name: str, trained_on: str, announced: Sequence[AnnouncedFile]
) -> tuple[PatchVersion, bool]:
    """Opens an upload; bytes that are published already return their version.

    Args:
        uow: the transaction.
        principal: who asks.
        owner: of the patch.
        name: of the patch.
        trained_on: a ready release of the patch's family, or "unknown".
        announced: every file of the directory; what does not belong to a patch is dropped and reported.

    Returns:
        The version, and whether it is a new draft.

    Raises:
        DomainError: among others quota.exceeded, which is asked when a draft is opened and again when it is published.
    """
    patch = patches.get(uow, principal, owner, name)
    principal.require_publish(owner)
    release = None if trained_on == UNKNOWN else releases.get_ready(uow, principal, patch.family.name, trained_on)
    chosen, dropped = _choose(announced, uow.tools.limits.patch_bytes, uow.tools.limits.patch_files)
    digest = digest_of([[f.path, f.sha256] for f in chosen])
    require_not_purged(uow, owner, digest)
    account = open_account(uow, owner, "bytes", "versions", "drafts")
    existing = rows.version_by_digest(uow.session, patch.id, digest)
    if existing:
        _check_same(patch, existing, release.id if release else None, trained_on)
        return existing, False
    total = sum(f.size for f in chosen)
    account.charge(drafts=1, versions=1, bytes=total)
    uow.hold_gc()  # for the draft already, so that bytes that are uploaded again are not removed before publication
    before = draft_files.sent_before(uow, patch.id)
    # Not what a push staged: its mark says in addition that the staged bytes were hashed here.
    files = draft_files.mark([f.row() for f in chosen], [f.path for f in chosen if f.sha256 in before and not f.staged])
    version = PatchVersion(
        id=new_id("ver"), created_at=clock(uow.session), patch_id=patch.id, owner=owner, number=None, state="draft",
        digest=digest, published_digest=None, files=files, dropped=dropped, total_bytes=total,
        trained_on_id=release.id if release else None, facts=None,
    )  # fmt: skip
    version.patch, version.trained_on = patch, release
    uow.add(version)
    return version, True


def open_upload(uow: UnitOfWork, principal: Principal, upload: str) -> PatchVersion:
    """A draft that the principal may write to."""
    return _open(principal, rows.version(uow.session, upload), upload)


def _open(principal: Principal, version: PatchVersion | None, upload: str) -> PatchVersion:
    """Returns the given version if it is an open draft; otherwise raises `DomainError` (upload.unknown, token.scope)."""
    if version is None or version.state != "draft" or not principal.can_read(version.owner):
        raise DomainError("upload.unknown", upload=upload[:60])
    principal.require_publish(version.owner)
    return version


def staged_name(version: PatchVersion, path: str) -> tuple[str, int]:
    """Name under which a file of a draft is staged, and its announced size; user's paths never become keys."""
    for index, file in enumerate(version.files):
        if file["path"] == path:
            return str(index), file["size"]
    raise DomainError("upload.file", path=path[:200])


def received(uow: UnitOfWork, version: PatchVersion) -> dict[str, int]:
    """How many bytes of each file have arrived, here or straight in the store, or need not be sent again."""
    return {file["path"]: draft_files.arrived(uow.tools, version, index) for index, file in enumerate(version.files)}


def place(uow: UnitOfWork, principal: Principal, upload: str, path: str) -> tuple[str, str, int, int]:
    """Where the service puts the bytes of a file: upload, name of the staged file, its size, and how many bytes are there."""
    version = open_upload(uow, principal, upload)
    name, size = staged_name(version, path)
    return version.id, name, size, draft_files.arrived_here(uow.tools, version, int(name))


def is_refused(uow: UnitOfWork, principal: Principal, upload: str) -> bool:
    """Returns whether a draft was verified and refused, and none of its files has changed since."""
    return open_upload(uow, principal, upload).refusal is not None


def forget_refusal(uow: UnitOfWork, principal: Principal, upload: str) -> None:
    """Lets a refused draft be verified again, because one of its files is about to change."""
    version = open_upload(uow, principal, upload)
    uow.lock(version)
    version.refusal = None


@dataclass(frozen=True)
class DirectPart:
    """A part that a client sends straight to the store: its number from 1 on, and the bytes of the file that it holds."""

    number: int
    offset: int
    size: int
    url: str


def direct_parts(uow: UnitOfWork, principal: Principal, upload: str, path: str) -> tuple[int, list[DirectPart]]:
    """Where the parts of a file can be sent that are not in the store yet.

    Returns:
        Size in bytes of all parts but the last, and the parts that are missing.

    Raises:
        DomainError: upload.unknown, upload.file, upload.not_direct.
    """
    version = open_upload(uow, principal, upload)
    name, size = staged_name(version, path)
    direct = uow.tools.blobs.direct
    if direct is None:
        raise DomainError("upload.not_direct")
    if draft_files.is_kept(uow.tools, version.files[int(name)]):
        return part_bytes(size), []
    uow.lock(version)
    multiparts = dict(version.multiparts or {})
    there = direct.arrived(version.id, name, multiparts[path]) if path in multiparts else None
    if there is None:  # the first time, or what was sent before was dropped because it was wrong
        multiparts[path], there = direct.begin(version.id, name), {}
        version.multiparts = multiparts
    step = part_bytes(size)
    parts = [(number, offset, min(step, size - offset)) for number, offset in enumerate(range(0, size, step), 1)]
    missing = [part for part in parts if there.get(part[0]) != part[2]]
    if missing:
        version.refusal = None  # the new bytes may fix it
    return step, [DirectPart(*part, direct.part_url(version.id, name, multiparts[path], part[0])) for part in missing]


def publish(uow: UnitOfWork, principal: Principal, upload: str, facts: VersionFacts) -> PatchVersion:
    """Publishes a verified draft under the next number; the same bytes twice are one version."""
    # Read only once: if the draft ended between two reads, the second one would report an unknown upload.
    found = rows.version(uow.session, upload)
    if ended := _outcome(uow, principal, found):
        return ended
    version = _open(principal, found, upload)
    patch, account = version.patch, open_account(uow, version.owner, "versions")
    uow.lock(patch)  # numbers have no gaps, and the same bytes are one version
    uow.lock(version)
    if version.state != "draft":
        raise CollisionError
    require_not_purged(uow, version.owner, version.digest)
    uow.after_commit(lambda: uow.tools.blobs.discard(upload))
    trained_on = version.trained_on.name if version.trained_on else UNKNOWN
    existing = rows.version_by_digest(uow.session, patch.id, version.digest)
    if existing:
        _check_same(patch, existing, version.trained_on_id, trained_on)
        version.state = move("version", version.state, "discarded")
        return existing
    account.charge(versions=1)
    version.facts, version.files, version.refusal = dict(facts.summary), draft_files.unmarked(version), None
    version.number = rows.next_number(uow.session, patch.id)
    version.state = move("version", version.state, "published")
    version.published_digest = version.digest
    version.published_at = now()
    version.row_version += 1
    event = VersionPublished(trained_on=trained_on, version_id=version.id, front=facts.front)
    uow.event(event, principal, version.owner, f"{patch.full_name}@{version.number}")
    return version


def settled(uow: UnitOfWork, principal: Principal, upload: str) -> PatchVersion | None:
    """What a draft has become, for a client that lost the answer: a version, or the one that had its bytes already."""
    return _outcome(uow, principal, rows.version(uow.session, upload))


def _outcome(uow: UnitOfWork, principal: Principal, version: PatchVersion | None) -> PatchVersion | None:
    if version is None or not principal.can_read(version.owner):
        return None
    if version.state == "discarded" and (existing := rows.version_by_digest(uow.session, version.patch_id, version.digest)):
        trained_on = version.trained_on.name if version.trained_on else UNKNOWN
        _check_same(version.patch, existing, version.trained_on_id, trained_on)
        return existing
    if version.state == rows.PURGED:
        require_not_purged(uow, version.owner, version.digest)  # its error names the version, which the draft's would not
    return version if version.state == "published" else None


def require_not_purged(uow: UnitOfWork, owner: str, digest: str) -> None:
    """The very same files are not taken again for an owner who had them erased."""
    if purged := rows.purged_digest(uow.session, owner, digest):
        patches.require_kept(purged)


def _choose(announced: Sequence[AnnouncedFile], max_bytes: int, max_files: int) -> tuple[list[AnnouncedFile], list[str]]:
    by_path = {f.path: f for f in announced}
    if len(by_path) != len(announced) or len(announced) > max_files:
        raise DomainError("version.files", reason=f"A path is listed twice, or there are more than {max_files} files.")
    sizes, dropped = choose_files({f.path: f.size for f in announced})
    for path in sizes:
        if not _SHA256.fullmatch(by_path[path].sha256) or by_path[path].size < 0:
            raise DomainError("version.files", reason=f"{path} needs its size and the sha256 of its bytes in lower-case hex.")
    if sum(sizes.values()) > max_bytes:
        raise DomainError("request.too_large", what="the patch", size=sum(sizes.values()), limit=max_bytes)
    return [by_path[path] for path in sorted(sizes)], dropped


def _check_same(patch: Patch, existing: PatchVersion, trained_on_id: str | None, trained_on: str) -> None:
    if existing.state == "yanked":
        raise DomainError("version.yanked", patch=patch.full_name, version=existing.number, reason=existing.yank_reason)
    if existing.trained_on_id != trained_on_id:
        release = existing.trained_on.name if existing.trained_on else UNKNOWN
        raise DomainError("version.trained_on", version=existing.number, release=release, asked=trained_on)

"""Versions of a patch: read, listed, yanked, never edited.

Published by `app.services.patches.drafts`, purged by `app.services.operations.purges`.
"""

from collections.abc import Sequence

from app.db import patches as rows
from app.db.patches import PatchVersion
from app.domain.errors import DomainError
from app.domain.events.patches import VersionYanked
from app.domain.principal import Principal
from app.domain.states import move
from app.services.patches import patches
from app.services.unit_of_work import UnitOfWork


def get(uow: UnitOfWork, principal: Principal, owner: str, name: str, number: int) -> PatchVersion:
    patch = patches.get(uow, principal, owner, name)
    version = rows.version_by_number(uow.session, patch.id, number)
    if version is None:
        raise DomainError("version.unknown", patch=patch.full_name, version=number)
    return version


def file_of(version: PatchVersion, path: str) -> tuple[str, int]:
    """sha256 and size of one of a version's files.

    Raises:
        DomainError: version.file, version.purged.
    """
    patches.require_kept(version)
    for file in version.files:
        if file["path"] == path:
            return file["sha256"], file["size"]
    raise DomainError("version.file", patch=version.patch.full_name, version=version.number, path=path[:200])


def list_page(
    uow: UnitOfWork, principal: Principal, owner: str, name: str, after: str | None, limit: int
) -> Sequence[PatchVersion]:
    patch = patches.get(uow, principal, owner, name)
    return rows.versions_page(uow.session, patch.id, after, limit)


def yank(
    uow: UnitOfWork, principal: Principal, owner: str, name: str, number: int, reason: str, expected: int | None = None
) -> PatchVersion:
    """Hides a version from selection; what is pinned to it goes on."""
    version = get(uow, principal, owner, name, number)
    principal.require_publish(owner)
    uow.lock(version)
    uow.expect(version, expected, f"{owner}/{name}@{number}")
    version.state = move("version", version.state, "yanked")
    version.yank_reason = reason
    version.row_version += 1
    uow.event(VersionYanked(reason=reason), principal, owner, f"{owner}/{name}@{number}")
    return version

"""Repositories of the Hub protocol: what a name and a revision mean, for whoever asks.

Nothing is made here: a repository is a family, a patch, or a patch's ready ports, seen as clients of the Hub see models.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Literal

from app.db import commits, ports, pushes
from app.db import patches as patch_rows
from app.db import releases as release_rows
from app.db.families import Family
from app.db.patches import Patch, PatchVersion
from app.db.ports import Port
from app.db.releases import Release
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.domain.repositories import MAIN, Repository, Revision, parse_revision, unknown_revision
from app.services.access import grants
from app.services.catalog import families, releases
from app.services.patches import patches
from app.services.unit_of_work import UnitOfWork

Kind = Literal["base", "patch", "adapter", "merged"]
# Of a release that was yanked, what is pinned goes on being read.
READABLE = ("ready", "yanked")


@dataclass(frozen=True)
class BaseModel:
    """A release, as a base model."""

    release: Release


@dataclass(frozen=True)
class Adapter:
    """A version of a patch as it was published; rewritten for the release of `port`, where there is one."""

    version: PatchVersion
    port: Port | None = None


@dataclass(frozen=True)
class Merged:
    """The merged model of a ready port."""

    port: Port


@dataclass(frozen=True)
class Nothing:
    """A patch of which nothing is published yet: a repository that can be pushed to.

    `patch` is None where it was announced only, and nothing says yet what it is a patch of.
    """

    patch: Patch | None
    at: dt.datetime


Thing = BaseModel | Adapter | Merged | Nothing


def root_of(uow: UnitOfWork, principal: Principal, repository: Repository) -> Family | Patch:
    """The family or the patch that a repository shows.

    Raises:
        DomainError: family.unknown, patch.unknown: it is not there, or not for this principal.
    """
    if repository.kind == "base":
        return families.get(uow, principal, repository.name)
    return patches.get(uow, principal, repository.owner, repository.name)


def family_and_birth(thing: Thing) -> tuple[str, dt.datetime]:
    """The family's name, and when the family or the patch was created."""
    if isinstance(thing, BaseModel):
        return thing.release.family.name, thing.release.family.created_at
    if isinstance(thing, Nothing):
        return thing.patch.family.name if thing.patch else "", thing.at
    patch = (thing.version if isinstance(thing, Adapter) else thing.port.version).patch
    return patch.family.name, patch.created_at


def announced(uow: UnitOfWork, principal: Principal, repository: Repository) -> Nothing | None:
    """A repository that is announced and no patch yet, if the principal may see it."""
    if repository.kind != "patch" or not principal.can_read(repository.owner):
        return None
    if patch_rows.by_name(uow.session, repository.owner, repository.name):
        return None
    push = pushes.find(uow.session, repository.full_name, MAIN)
    return Nothing(None, push.created_at) if push else None


def find(uow: UnitOfWork, principal: Principal, repository: Repository, text: str) -> Thing:
    """What a revision of a repository means.

    Raises:
        DomainError: family.unknown, patch.unknown for the repository; hub.revision, release.unknown, release.not_ready,
            alias.unknown, version.unknown, version.none, version.yanked, version.purged, port.none for the revision.
    """
    if empty := announced(uow, principal, repository):
        if text not in (MAIN, commits.NOTHING):
            raise unknown_revision(repository, text)
        return empty
    root, revision = root_of(uow, principal, repository), parse_revision(repository, text)
    if isinstance(root, Family):
        return _base(uow, root, repository, revision)
    if repository.kind == "patch":
        return _adapter(uow, principal, root, repository, revision)
    return _merged(uow, principal, root, repository, revision)


def _base(uow: UnitOfWork, family: Family, repository: Repository, revision: Revision) -> BaseModel:
    if revision.commit:
        for commit in commits.named(uow.session, family.id, revision.commit):
            if (release := release_rows.get(uow.session, commit.subject)) and release.state in READABLE:
                return BaseModel(release)
        raise unknown_revision(repository, revision.text)
    if revision.release is None:
        newest = release_rows.newest_ready(uow.session, family.id)
        if newest is None:
            raise unknown_revision(repository, revision.text)
        return BaseModel(newest)
    release = releases.of_family(uow, family, revision.release)
    if release.state not in READABLE:
        raise DomainError("release.not_ready", family=family.name, release=release.name, state=release.state)
    return BaseModel(release)


def _adapter(
    uow: UnitOfWork, principal: Principal, patch: Patch, repository: Repository, revision: Revision
) -> Adapter | Nothing:  # fmt: skip
    if revision.commit:
        return _committed_adapter(uow, principal, patch, repository, revision.commit)
    if revision.alias:
        return Adapter(patches.resolve_version(uow, patch, revision.alias))
    if revision.version is None:
        newest = patch_rows.newest_version(uow.session, patch.id)
        return Adapter(newest) if newest else Nothing(patch, patch.created_at)
    version = _version(uow, patch, revision.version)
    if revision.release is None:
        return Adapter(version)
    _require_visible(uow, principal, patch)
    return Adapter(version, _port(uow, patch, version, revision.release))


def _committed_adapter(
    uow: UnitOfWork, principal: Principal, patch: Patch, repository: Repository, name: str
) -> Adapter | Nothing:  # fmt: skip
    for commit in commits.named(uow.session, patch.id, name):
        if commit.kind == "patch" and (version := patch_rows.version(uow.session, commit.subject)):
            patches.require_kept(version)
            return Adapter(version)
        if commit.kind == "adapter" and (port := _still_ready(uow, principal, commit.subject)):
            return Adapter(port.version, port)
    if name == commits.NOTHING:
        return Nothing(patch, patch.created_at)
    raise unknown_revision(repository, name)


def _merged(uow: UnitOfWork, principal: Principal, patch: Patch, repository: Repository, revision: Revision) -> Merged:
    _require_visible(uow, principal, patch)
    if revision.commit:
        for commit in commits.named(uow.session, patch.id, revision.commit):
            if commit.kind == "merged" and (port := _still_ready(uow, principal, commit.subject)):
                return Merged(port)
        raise unknown_revision(repository, revision.text)
    if revision.release is None:
        newest = ports.newest(uow.session, patch.id)
        if newest is None:
            raise unknown_revision(repository, revision.text)
        return Merged(newest)
    pinned = revision.version
    version = patches.resolve_version(uow, patch, None) if pinned is None else _version(uow, patch, pinned)
    return Merged(_port(uow, patch, version, revision.release))


def _version(uow: UnitOfWork, patch: Patch, number: int) -> PatchVersion:
    """A version by its number: yanked or not, for its number pins it."""
    version = patches.find_version(uow, patch, str(number))
    patches.require_kept(version)
    return version


def _require_visible(uow: UnitOfWork, principal: Principal, patch: Patch) -> None:
    """Raises `DomainError` (family.unknown) if the principal may not see the family of a patch (any more)."""
    if not grants.is_visible(uow, principal, patch.family_id):
        raise DomainError("family.unknown", family=patch.family.name)


def _port(uow: UnitOfWork, patch: Patch, version: PatchVersion, name: str) -> Port:
    """Returns the ready port of a version to a release.

    Raises:
        DomainError: release.unknown, port.none.
    """
    release = releases.of_family(uow, patch.family, name)
    port = ports.between(uow.session, version.id, release.id)
    if port is None:
        raise DomainError("port.none", patch=patch.full_name, version=version.number, release=name)
    return port


def _still_ready(uow: UnitOfWork, principal: Principal, port_id: str) -> Port | None:
    port = ports.get(uow.session, port_id)
    if port is None or port.state != "ready" or not grants.is_visible(uow, principal, port.release.family_id):
        return None
    return port

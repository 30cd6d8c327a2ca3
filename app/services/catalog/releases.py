"""Releases: registered from where they lie, digested by a job, never changed."""

from collections.abc import Sequence

from app.db import releases as rows
from app.db.base import now
from app.db.families import Family
from app.db.releases import Release
from app.domain.errors import DomainError
from app.domain.events.families import ReleaseYanked
from app.domain.ids import new_id
from app.domain.names import check_revision
from app.domain.principal import INSTALLATION, Principal
from app.domain.states import move
from app.services.catalog import families, release_sources
from app.services.catalog.ingestion import INGESTION
from app.services.catalog.release_sources import PUSHED, UpstreamListing
from app.services.unit_of_work import UnitOfWork


def register(
    uow: UnitOfWork, principal: Principal, family_name: str, name: str, directory: str, parent: str | None, copied: bool,
    listed: UpstreamListing | None = None,
) -> tuple[Release, bool]:  # fmt: skip
    """Registers a release and starts its ingestion; the same directory again returns what is there.

    Args:
        uow: the transaction.
        principal: an admin.
        family_name, name: of the release.
        directory: or a place in S3.
        parent: the release that it continues.
        copied: whether its bytes are copied; those of an upstream always are.
        listed: what an upstream listed, where `directory` names something there (`sources.look_up`).

    Returns:
        The release, and whether it is new. A rejected one is ingested again.
    """
    principal.require_admin()
    family = families.get(uow, principal, family_name)
    check_revision(name, "a release")
    source = listed.address if listed else release_sources.address_of(release_sources.allowed_source(directory, uow.tools))
    copied = copied or listed is not None
    parent_row = _parent(uow, family, parent)
    release = rows.by_name(uow.session, family.id, name)
    if release:
        uow.lock(release)
    if release and release.state != "rejected":
        _check_same(release, source, copied, parent_row)
        return release, False
    parent_id = parent_row.id if parent_row else None
    again = _ingest(uow, principal, family, name, source, copied, release, parent_id, listed)
    return again, release is None


def register_pushed(uow: UnitOfWork, principal: Principal, family_name: str, name: str, push: str) -> Release:
    """Registers a release of which all files are in the store, and starts its ingestion from there.

    Args:
        uow: the transaction.
        principal: an admin.
        family_name: its family.
        name: which is new, or of a rejected one.
        push: id of the push that names the files.
    """
    principal.require_admin()
    family = families.get(uow, principal, family_name)
    release = rows.by_name(uow.session, family.id, name)
    if release:
        uow.lock(release)
    return _ingest(uow, principal, family, name, f"{PUSHED}{push}", True, release, release.parent_id if release else None)


def _ingest(
    uow: UnitOfWork, principal: Principal, family: Family, name: str, source: str, copied: bool, rejected: Release | None,
    parent_id: str | None, listed: UpstreamListing | None = None,
) -> Release:  # fmt: skip
    """Starts the ingestion of a new or a rejected release. A rejected one was never usable, so all its fields may change."""
    release = rejected or Release(id=new_id("rel"), created_at=now(), name=name, owner=INSTALLATION, state="ingesting")
    release.family_id, release.source, release.copied, release.parent_id = family.id, source, copied, parent_id
    release.origin = listed.origin if listed else None
    uow.add(release)
    uow.session.refresh(release, ["family", "parent"])
    if listed:
        release_sources.keep_listing(uow, release, listed)
    if rejected:
        INGESTION.again(uow, principal, release)
        uow.session.flush()
    else:
        INGESTION.begin(uow, principal, release)
    return release


def get(uow: UnitOfWork, principal: Principal, family_name: str, name: str) -> Release:
    return of_family(uow, families.get(uow, principal, family_name), name)


def of_family(uow: UnitOfWork, family: Family, name: str) -> Release:
    """Raises `DomainError` (release.unknown)."""
    release = rows.by_name(uow.session, family.id, name)
    if release is None:
        raise DomainError("release.unknown", family=family.name, release=name[:100])
    return release


def get_ready(uow: UnitOfWork, principal: Principal, family_name: str, name: str) -> Release:
    """A release that can be ported to.

    Raises:
        DomainError: release.unknown, release.yanked, release.not_ready.
    """
    release = get(uow, principal, family_name, name)
    if release.state == "yanked":
        raise DomainError("release.yanked", family=family_name, release=name, reason=release.yank_reason)
    if release.state != "ready":
        raise DomainError("release.not_ready", family=family_name, release=name, state=release.state)
    return release


def list_page(
    uow: UnitOfWork, principal: Principal, family_name: str | None, state: str | None, after: str | None, limit: int
) -> Sequence[Release]:
    """The releases of a family, or of all that the principal may see."""
    family = families.get(uow, principal, family_name) if family_name else None
    return rows.list_page(uow.session, family.id if family else None, state, after, limit, principal.grantee)


def yank(uow: UnitOfWork, principal: Principal, family_name: str, name: str, reason: str, expected: int | None = None) -> Release:
    """Hides a release from selection; what is pinned to it goes on."""
    principal.require_admin()
    release = get(uow, principal, family_name, name)
    uow.lock(release)
    uow.expect(release, expected, f"{family_name}/{name}")
    release.state = move("release", release.state, "yanked")
    release.yank_reason = reason
    touch(release)
    uow.family_event(ReleaseYanked(reason=reason), principal, family_name, name)
    return release


def _check_same(release: Release, source: str, copied: bool, parent: Release | None) -> None:
    """Raises `DomainError` (release.taken) unless a release was registered with the very same words."""
    was = (release.source, release.copied, release.parent_id)
    if was != (source, copied, parent.id if parent else None):
        raise DomainError(
            "release.taken", family=release.family.name, release=release.name, source=release.source,
            how="copied" if release.copied else "by reference", parent=release.parent.name if release.parent else "none",
        )  # fmt: skip


def _parent(uow: UnitOfWork, family: Family, parent: str | None) -> Release | None:
    if parent is None:
        return None
    row = rows.by_name(uow.session, family.id, parent)
    if row is None:
        raise DomainError("release.parent", parent=parent[:100], family=family.name)
    return row


def touch(release: Release) -> None:
    """Every change is told by the row's version."""
    release.row_version += 1

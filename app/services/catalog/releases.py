"""Releases: registered from where they lie, digested by a job, never changed."""

from collections.abc import Sequence
from typing import Any

from app.db import releases as rows
from app.db.base import now
from app.db.families import Family
from app.db.releases import Release
from app.domain.errors import DomainError
from app.domain.events.families import ReleaseRegistered, ReleaseRejected, ReleaseYanked
from app.domain.ids import new_id
from app.domain.names import check_revision
from app.domain.principal import INSTALLATION, Principal
from app.domain.states import move
from app.services.catalog import families, release_sources
from app.services.catalog.release_sources import PUSHED, UpstreamListing
from app.services.unit_of_work import UnitOfWork

INGEST = "ingest"


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
    is_new = release is None
    if release is None:
        release = Release(
            id=new_id("rel"), created_at=now(), family_id=family.id, name=name, owner=INSTALLATION, source=source,
            copied=copied, parent_id=parent_row.id if parent_row else None, state="ingesting",
        )  # fmt: skip
        uow.add(release)
    else:  # it never was what its name says: whoever named the wrong directory corrects it
        release.source, release.copied, release.parent_id = source, copied, parent_row.id if parent_row else None
        _next_attempt(release)
    release.origin = listed.origin if listed else None
    if listed:
        release_sources.keep_listing(uow, release, listed)
    uow.tools.jobs.enqueue(uow.session, job_of(release), INGEST, release.id)
    uow.family_event(ReleaseRegistered(source=source), principal, family_name, name)
    uow.session.flush()
    return _reread(uow, release), is_new


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
    source = f"{PUSHED}{push}"
    if release is None:
        release = Release(
            id=new_id("rel"), created_at=now(), family_id=family.id, name=name, owner=INSTALLATION, source=source,
            copied=True, parent_id=None, state="ingesting",
        )  # fmt: skip
        uow.add(release)
    else:
        uow.lock(release)
        release.source, release.copied = source, True
        _next_attempt(release)
    uow.tools.jobs.enqueue(uow.session, job_of(release), INGEST, release.id)
    uow.family_event(ReleaseRegistered(source=source), principal, family_name, name)
    uow.session.flush()
    return _reread(uow, release)


def ingest_again(uow: UnitOfWork, principal: Principal, release_id: str) -> str:
    """Starts the next attempt at a rejected release; the job.

    Raises:
        DomainError: what `sources.order_of` raises, or state.move when it is not rejected any more.
    """
    principal.require_admin()
    release = rows.locked(uow.session, release_id)
    if release is None:
        raise DomainError("state.move", noun="release", state="gone", target="ingesting")
    _next_attempt(release)
    release_sources.order_of(uow, release)
    uow.tools.jobs.enqueue(uow.session, job_of(release), INGEST, release.id)
    uow.family_event(ReleaseRegistered(source=release.source), principal, release.family.name, release.name)
    return job_of(release)


def job_of(release: Release) -> str:
    """Deterministic, so that a repeat is harmless: one job for each attempt at ingesting."""
    return _job(release.id, release.attempt)


def _job(release_id: str, attempt: int) -> str:
    return f"{INSTALLATION}:{INGEST}:{release_id}-{attempt}"


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


def record_rejected(uow: UnitOfWork, release_id: str, problem: dict[str, Any]) -> None:
    """Marks a release as rejected, with the reason in the language of all errors."""
    release = still_ingesting(uow, release_id)
    if release is None:
        return
    release.state = move("release", release.state, "rejected")
    release.problem = problem
    touch(release)
    worker = Principal(INSTALLATION, frozenset({"admin"}), job_of(release))
    event = ReleaseRejected(code=problem["code"], detail=problem["detail"])
    uow.family_event(event, worker, release.family.name, release.name)


def unfinished(uow: UnitOfWork) -> list[tuple[str, str]]:
    """Returns (job, release id) of every release that waits for its ingestion, the oldest first."""
    return [(_job(ident, attempt), ident) for ident, attempt in rows.ingesting(uow.session)]


def give_up(uow: UnitOfWork, release_id: str, job: str, problem: dict[str, Any]) -> None:
    """Rejects the release of one job that was given up, unless another attempt was begun since."""
    release = rows.get(uow.session, release_id)
    if release is not None and job_of(release) == job:
        record_rejected(uow, release_id, problem)


def _check_same(release: Release, source: str, copied: bool, parent: Release | None) -> None:
    """Raises `DomainError` (release.taken) unless a release was registered with the very same words."""
    was = (release.source, release.copied, release.parent_id)
    if was != (source, copied, parent.id if parent else None):
        raise DomainError(
            "release.taken", family=release.family.name, release=release.name, source=release.source,
            how="copied" if release.copied else "by reference", parent=release.parent.name if release.parent else "none",
        )  # fmt: skip


def _next_attempt(release: Release) -> None:
    release.state = move("release", release.state, "ingesting")
    release.attempt += 1
    release.problem = None
    touch(release)


def _parent(uow: UnitOfWork, family: Family, parent: str | None) -> Release | None:
    if parent is None:
        return None
    row = rows.by_name(uow.session, family.id, parent)
    if row is None:
        raise DomainError("release.parent", parent=parent[:100], family=family.name)
    return row


def still_ingesting(uow: UnitOfWork, release_id: str) -> Release | None:
    """A release whose ingestion still waits for its end, locked."""
    release = rows.get(uow.session, release_id)
    if release is None:
        return None
    uow.lock(release)
    return release if release.state == "ingesting" else None


def _reread(uow: UnitOfWork, release: Release) -> Release:
    found = rows.by_name(uow.session, release.family_id, release.name)
    assert found is not None  # noqa: S101  it was flushed a line ago
    uow.session.refresh(found, ["family", "parent"])
    return found


def touch(release: Release) -> None:
    """Every change is told by the row's version."""
    release.row_version += 1

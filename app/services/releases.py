"""Releases: registered from a directory, digested by a job, never changed."""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.db import releases as rows
from app.db.base import now
from app.db.families import Family
from app.db.jobs import Claim, still_ours
from app.db.releases import Release
from app.domain.errors import DomainError
from app.domain.ids import new_id
from app.domain.names import check_revision
from app.domain.places import S3, Place
from app.domain.principal import INSTALLATION, Principal
from app.domain.states import move
from app.services import families
from app.services.uow import Tools, UnitOfWork

INGEST = "ingest"
MANIFEST_FILE = "manifest.json"


def register(
    uow: UnitOfWork, principal: Principal, family_name: str, name: str, directory: str, parent: str | None, copied: bool
) -> tuple[Release, bool]:
    """Registers a release and starts its ingestion; the same directory again returns what is there.

    Returns:
        The release, and whether it is new. A rejected one is ingested again.
    """
    principal.require_admin()
    family = families.get(uow, family_name)
    check_revision(name, "a release")
    source = address_of(allowed_source(directory, uow.tools))
    parent_row = _parent(uow, family, parent)
    release = rows.by_name(uow.session, family.id, name)
    if release:
        uow.lock(release)
    if release and (release.source != source or release.copied != copied):
        raise DomainError("release.taken", family=family_name, release=name, source=release.source)
    if release and release.state != "rejected":
        return release, False
    is_new = release is None
    if release is None:
        release = Release(
            id=new_id("rel"), created_at=now(), family_id=family.id, name=name, owner=INSTALLATION, source=source,
            copied=copied, parent_id=parent_row.id if parent_row else None, state="ingesting",
        )  # fmt: skip
        uow.add(release)
    else:
        _next_attempt(release)
    uow.tools.jobs.enqueue(uow.session, job_of(release), INGEST, release.id)
    uow.event("release.registered", principal, INSTALLATION, f"{family_name}/{name}", source=source)
    uow.session.flush()
    return _reread(uow, release), is_new


def ingest_again(uow: UnitOfWork, principal: Principal, release_id: str) -> str:
    """Starts the next attempt at a rejected release; the job.

    Raises:
        DomainError: release.root, release.directory, place.not_allowed, or state.move when it is not rejected any more.
    """
    principal.require_admin()
    release = rows.locked(uow.session, release_id)
    if release is None:
        raise DomainError("state.move", noun="release", state="gone", target="ingesting")
    _next_attempt(release)
    allowed_source(release.source, uow.tools)
    uow.tools.jobs.enqueue(uow.session, job_of(release), INGEST, release.id)
    subject = f"{release.family.name}/{release.name}"
    uow.event("release.registered", principal, INSTALLATION, subject, source=release.source)
    return job_of(release)


def job_of(release: Release) -> str:
    """Deterministic, so that a repeat is harmless: one job for each attempt at ingesting."""
    return f"{INSTALLATION}:{INGEST}:{release.id}-{release.attempt}"


def get(uow: UnitOfWork, family_name: str, name: str) -> Release:
    family = families.get(uow, family_name)
    release = rows.by_name(uow.session, family.id, name)
    if release is None:
        raise DomainError("release.unknown", family=family_name, release=name[:100])
    return release


def get_ready(uow: UnitOfWork, family_name: str, name: str) -> Release:
    """A release that can be ported to.

    Raises:
        DomainError: release.unknown, release.yanked, release.not_ready.
    """
    release = get(uow, family_name, name)
    if release.state == "yanked":
        raise DomainError("release.yanked", family=family_name, release=name, reason=release.yank_reason)
    if release.state != "ready":
        raise DomainError("release.not_ready", family=family_name, release=name, state=release.state)
    return release


def list_page(uow: UnitOfWork, family_name: str | None, state: str | None, after: str | None, limit: int) -> Sequence[Release]:
    family = families.get(uow, family_name) if family_name else None
    return rows.list_page(uow.session, family.id if family else None, state, after, limit)


def yank(uow: UnitOfWork, principal: Principal, family_name: str, name: str, reason: str) -> Release:
    """Hides a release from selection; what is pinned to it goes on."""
    principal.require_admin()
    release = get(uow, family_name, name)
    uow.lock(release)
    release.state = move("release", release.state, "yanked")
    release.yank_reason = reason
    _touch(release)
    uow.event("release.yanked", principal, INSTALLATION, f"{family_name}/{name}", reason=reason)
    return release


def ingest_order(uow: UnitOfWork, release_id: str) -> dict[str, Any] | None:
    """What the ingestion's child process has to do; None when there is nothing to do any more."""
    release = rows.get(uow.session, release_id)
    if release is None or release.state != "ingesting":
        return None
    # A name of its own for every run: one that was lost to another worker may still be writing.
    run = f"{release.id}-{secrets.token_hex(4)}"
    return {
        "run": run,
        # Asked again at the time of reading: a link may have been moved since the release was registered.
        "source": allowed_source(release.source, uow.tools),
        "roots": [str(r) for r in uow.tools.allowed_roots],
        "sink": uow.tools.blobs.sink(run),
        "copy": release.copied,
    }


def record_ingested(uow: UnitOfWork, release_id: str, job: str, held: Claim, result: dict[str, Any]) -> None:
    """Makes a release ready with what its job found; fails when the job was lost meanwhile.

    Raises:
        DomainError: job.lost.
    """
    if not still_ours(uow.session, job, held):
        raise DomainError("job.lost", job=job)
    release = _ingesting(uow, release_id)
    if release is None:
        return
    blobs, run = uow.tools.blobs, str(result["run"])
    blobs.adopt(run, {MANIFEST_FILE: result["manifest_sha256"]})
    release.manifest = result["manifest_sha256"]
    manifest = uow.tools.library.manifest(release)
    if release.copied:
        blobs.adopt(run, {f"files/{path}": digest for path, digest in manifest.file_digests.items()})
    uow.after_commit(lambda: blobs.discard(run))
    release.stats = None if release.copied else result["stats"]
    release.total_bytes = manifest.total_bytes
    release.summary = result["summary"]
    release.state = move("release", release.state, "ready")
    release.ready_at = now()
    _touch(release)
    worker = Principal(INSTALLATION, frozenset({"admin"}), job)
    subject = f"{release.family.name}/{release.name}"
    uow.event("release.ready", worker, INSTALLATION, subject, manifest=release.manifest, bytes=release.total_bytes)


def record_rejected(uow: UnitOfWork, release_id: str, problem: dict[str, Any]) -> None:
    """Marks a release as rejected, with the reason in the language of all errors."""
    release = _ingesting(uow, release_id)
    if release is None:
        return
    release.state = move("release", release.state, "rejected")
    release.problem = problem
    _touch(release)
    worker = Principal(INSTALLATION, frozenset({"admin"}), job_of(release))
    subject = f"{release.family.name}/{release.name}"
    uow.event("release.rejected", worker, INSTALLATION, subject, code=problem["code"], detail=problem["detail"])


def clear_ingestion(uow: UnitOfWork, order: dict[str, Any]) -> None:
    """Drops what a run staged that ended without a result."""
    uow.tools.blobs.discard(order["run"])


def reconcile(uow: UnitOfWork) -> int:
    """Rejects releases whose ingestion ended without a word (given up after too many crashes); returns how many."""
    count = 0
    for release in rows.list_page(uow.session, None, "ingesting", None, uow.tools.limits.page):
        status = uow.tools.jobs.status(job_of(release))
        if status is None or status.state in ("failed", "cancelled", "done"):
            error = DomainError("job.crashed", reason="it ended without recording a result")
            record_rejected(uow, release.id, status.problem if status and status.problem else error.to_problem())
            count += 1
    return count


def give_up(uow: UnitOfWork, release_id: str, job: str, problem: dict[str, Any]) -> None:
    """Rejects the release of one job that was given up, unless another attempt was begun since."""
    release = rows.get(uow.session, release_id)
    if release is not None and job_of(release) == job:
        record_rejected(uow, release_id, problem)


def allowed_source(source: str, tools: Tools) -> dict[str, Any]:
    """Where a release may be read from, as the order of its job names it.

    Raises:
        DomainError: release.root, release.directory, place.invalid, place.not_allowed.
    """
    if not source.startswith(S3):
        return {"kind": "directory", "directory": str(allowed_directory(source, tools.allowed_roots))}
    place = Place.parse(source)
    place.require_below(tools.allowed_s3)
    return {"kind": "s3", "bucket": place.bucket, "prefix": place.prefix}


def address_of(source: dict[str, Any]) -> str:
    """The address of a source, always written the same way."""
    return str(source["directory"] if source["kind"] == "directory" else Place(source["bucket"], source["prefix"]))


def allowed_directory(directory: str, roots: Sequence[Path]) -> Path:
    """The real place of a directory, if it may be read.

    Links are resolved before the allow-list is asked, and one answer is given for what is forbidden and what is not
    there outside the roots: nobody learns about the rest of the disk.

    Raises:
        DomainError: release.root, release.directory.
    """
    try:
        real = Path(directory).resolve(strict=False)
    except (OSError, ValueError, RuntimeError):
        raise DomainError("release.root", path=directory[:200]) from None
    if not any(real.is_relative_to(root.resolve()) for root in roots):
        raise DomainError("release.root", path=directory[:200])
    if not real.is_dir():
        raise DomainError("release.directory", path=directory[:200])
    return real


def _next_attempt(release: Release) -> None:
    release.state = move("release", release.state, "ingesting")
    release.attempt += 1
    release.problem = None
    _touch(release)


def _parent(uow: UnitOfWork, family: Family, parent: str | None) -> Release | None:
    if parent is None:
        return None
    row = rows.by_name(uow.session, family.id, parent)
    if row is None:
        raise DomainError("release.parent", parent=parent[:100], family=family.name)
    return row


def _ingesting(uow: UnitOfWork, release_id: str) -> Release | None:
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


def _touch(release: Release) -> None:
    release.row_version += 1

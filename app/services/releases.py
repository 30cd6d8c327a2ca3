"""Releases: registered from a directory, digested by a job, never changed."""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.core.manifest import Manifest
from app.db import releases as rows
from app.db.base import now
from app.db.families import Family
from app.db.jobs import Claim, claim, still_ours
from app.db.pushes import Push
from app.db.releases import Release
from app.domain.errors import DomainError
from app.domain.ids import new_id
from app.domain.names import check_revision
from app.domain.places import S3, Place
from app.domain.principal import INSTALLATION, Principal
from app.domain.states import move
from app.services import families, objects
from app.services.uow import Tools, UnitOfWork

INGEST = "ingest"
PUSHED_SOURCE = "push:"
MANIFEST_FILE = "manifest.json"


def register(
    uow: UnitOfWork, principal: Principal, family_name: str, name: str, directory: str, parent: str | None, copied: bool
) -> tuple[Release, bool]:
    """Registers a release and starts its ingestion; the same directory again returns what is there.

    Returns:
        The release, and whether it is new. A rejected one is ingested again.
    """
    principal.require_admin()
    family = families.get(uow, principal, family_name)
    check_revision(name, "a release")
    source = address_of(allowed_source(directory, uow.tools))
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
    uow.tools.jobs.enqueue(uow.session, job_of(release), INGEST, release.id)
    uow.family_event("release.registered", principal, family_name, name, source=source)
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
    source = f"{PUSHED_SOURCE}{push}"
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
    uow.family_event("release.registered", principal, family_name, name, source=source)
    uow.session.flush()
    return _reread(uow, release)


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
    _source(uow, release)
    uow.tools.jobs.enqueue(uow.session, job_of(release), INGEST, release.id)
    uow.family_event("release.registered", principal, release.family.name, release.name, source=release.source)
    return job_of(release)


def job_of(release: Release) -> str:
    """Deterministic, so that a repeat is harmless: one job for each attempt at ingesting."""
    return f"{INSTALLATION}:{INGEST}:{release.id}-{release.attempt}"


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
    return rows.list_page(uow.session, family.id if family else None, state, after, limit, families.reader_of(principal))


def yank(uow: UnitOfWork, principal: Principal, family_name: str, name: str, reason: str, expected: int | None = None) -> Release:
    """Hides a release from selection; what is pinned to it goes on."""
    principal.require_admin()
    release = get(uow, principal, family_name, name)
    uow.lock(release)
    uow.expect(release, expected, f"{family_name}/{name}")
    release.state = move("release", release.state, "yanked")
    release.yank_reason = reason
    _touch(release)
    uow.family_event("release.yanked", principal, family_name, name, reason=reason)
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
        "source": _source(uow, release),
        "roots": [str(r) for r in uow.tools.allowed_roots],
        "sink": uow.tools.blobs.sink(run),
        "copy": release.copied and not release.source.startswith(PUSHED_SOURCE),
        "copied": release.copied,
    }


def _source(uow: UnitOfWork, release: Release) -> dict[str, Any]:
    """Where a release is read from; of a pushed one, the place of its files in the store."""
    if not release.source.startswith(PUSHED_SOURCE):
        return allowed_source(release.source, uow.tools)
    push = uow.session.get(Push, release.source.removeprefix(PUSHED_SOURCE))
    if push is None:
        raise DomainError("push.lost", path=release.name)
    place = uow.tools.blobs.place({file["path"]: file["sha256"] for file in push.files})
    return {"kind": "stored", "place": place, "sizes": {file["path"]: file["size"] for file in push.files}}


def keep_ingested(uow: UnitOfWork, result: dict[str, Any]) -> Manifest:
    """Takes what a job found into the store, where nothing names it yet; again, it looks whether it is there.

    Apart from `record_ingested` because it can take long where the store is far away, and no row must be locked meanwhile.

    Raises:
        DomainError: blob.missing, when it wrote no such file.
    """
    uow.names_bytes()
    blobs, run, digest = uow.tools.blobs, str(result["run"]), str(result["manifest_sha256"])
    blobs.adopt(run, {MANIFEST_FILE: digest})
    manifest = uow.tools.library.read_manifest(digest)
    if result["copied"] and not result["stored"]:
        blobs.adopt(run, {f"files/{path}": sha256 for path, sha256 in manifest.file_digests.items()})
    return manifest


def record_ingested(uow: UnitOfWork, release_id: str, job: str, held: Claim, result: dict[str, Any]) -> None:
    """Makes a release ready with what its job found; fails when the job was lost meanwhile.

    Raises:
        DomainError: job.lost.
    """
    if claim(uow.session, job, held.executor) != held:
        raise DomainError("job.lost", job=job)
    # Before any row is locked: others should not wait for a store. What was kept before is only looked for.
    manifest = keep_ingested(uow, result)
    if not still_ours(uow.session, job, held):
        raise DomainError("job.lost", job=job)
    release = _ingesting(uow, release_id)
    if release is None:
        return
    blobs, run = uow.tools.blobs, str(result["run"])
    release.manifest = result["manifest_sha256"]
    uow.after_commit(lambda: blobs.discard(run))
    if release.source.startswith(PUSHED_SOURCE):
        _end_push(uow, release)
    release.stats = None if release.copied else result["stats"]
    release.total_bytes = manifest.total_bytes
    release.summary = result["summary"]
    release.state = move("release", release.state, "ready")
    release.ready_at = now()
    _touch(release)
    worker = Principal(INSTALLATION, frozenset({"admin"}), job)
    facts = {"manifest": release.manifest, "bytes": release.total_bytes}
    uow.family_event("release.ready", worker, release.family.name, release.name, **facts)


def _end_push(uow: UnitOfWork, release: Release) -> None:
    """What was pushed is the release's from now on."""
    push = uow.session.get(Push, release.source.removeprefix(PUSHED_SOURCE))
    if push:
        objects.forget(uow, [file["object"] for file in push.files])
        uow.session.delete(push)


def record_rejected(uow: UnitOfWork, release_id: str, problem: dict[str, Any]) -> None:
    """Marks a release as rejected, with the reason in the language of all errors."""
    release = _ingesting(uow, release_id)
    if release is None:
        return
    release.state = move("release", release.state, "rejected")
    release.problem = problem
    _touch(release)
    worker = Principal(INSTALLATION, frozenset({"admin"}), job_of(release))
    said = {"code": problem["code"], "detail": problem["detail"]}
    uow.family_event("release.rejected", worker, release.family.name, release.name, **said)


def clear_ingestion(uow: UnitOfWork, order: dict[str, Any]) -> None:
    """Drops what a run staged that ended without a result."""
    uow.tools.blobs.discard(order["run"])


def reconcile(uow: UnitOfWork) -> int:
    """Rejects releases whose ingestion ended without a word (given up after too many crashes); returns how many."""
    count = 0
    for release in rows.list_page(uow.session, None, "ingesting", None, uow.tools.limits.page):
        problem = crashed(uow, job_of(release))
        if problem:
            record_rejected(uow, release.id, problem)
            count += 1
    return count


def crashed(uow: UnitOfWork, job: str) -> dict[str, Any] | None:
    """Why a job ended whose subject still waits for it; None while it has not ended."""
    status = uow.tools.jobs.status(job)
    if status and status.state not in ("failed", "cancelled", "done"):
        return None
    error = DomainError("job.crashed", reason="it ended without recording a result")
    return status.problem if status and status.problem else error.to_problem()


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
    try:
        there = real.is_dir()
    except OSError:  # a name longer than any can be
        there = False
    if not there:
        raise DomainError("release.directory", path=directory[:200])
    return real


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

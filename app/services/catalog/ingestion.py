"""Ingestion: the job that reads a release, from its order to its record."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from app.core.manifest import Manifest
from app.db import release_downloads
from app.db import releases as rows
from app.db.base import now
from app.db.jobs import Claim, claim, still_ours
from app.db.pushes import Push
from app.db.releases import Release
from app.domain.errors import DomainError
from app.domain.events.families import ReleaseReady
from app.domain.principal import INSTALLATION, Principal
from app.domain.states import move
from app.services.catalog import release_sources, releases
from app.services.catalog.release_sources import PUSHED
from app.services.unit_of_work import UnitOfWork
from app.services.uploads import pushed_objects

MANIFEST_FILE = "manifest.json"
# The number of `stats` values of a file: size, mtime and inode.
STAT_FIELDS = 3


def order(uow: UnitOfWork, release_id: str) -> dict[str, Any] | None:
    """What the ingestion's child process has to do; None when there is nothing to do any more."""
    release = rows.get(uow.session, release_id)
    if release is None or release.state != "ingesting":
        return None
    # A name of its own for every run: one that was lost to another worker may still be writing.
    run = f"{release.id}-{secrets.token_hex(4)}"
    return {
        "run": run,
        "source": release_sources.order_of(uow, release),
        "roots": [str(r) for r in uow.tools.allowed_roots],
        "sink": uow.tools.blobs.sink(run),
        "copy": release.copied and not release_sources.lies_here(release),
        "copied": release.copied,
    }


def keep(uow: UnitOfWork, result: dict[str, Any]) -> Manifest:
    """Takes what a job found into the store, where nothing names it yet; again, it looks whether it is there.

    Apart from `record` because it can take long where the store is far away, and no row must be locked meanwhile.

    Raises:
        DomainError: blob.missing, when it wrote no such file.
    """
    uow.hold_gc()
    blobs, run, digest = uow.tools.blobs, str(result["run"]), str(result["manifest_sha256"])
    blobs.adopt(run, {MANIFEST_FILE: digest})
    manifest = uow.tools.artifacts.read_manifest(digest)
    if result["copied"] and not result["stored"]:
        blobs.adopt(run, {f"files/{path}": sha256 for path, sha256 in manifest.file_digests.items()})
    return manifest


def record(uow: UnitOfWork, release_id: str, job: str, held: Claim, result: dict[str, Any]) -> bool:
    """Makes a release ready with the result of its job; returns False if it no longer waits for that.

    Raises:
        DomainError: job.lost.
    """
    if claim(uow.session, job, held.executor) != held:
        raise DomainError("job.lost", job=job)
    # Before any row is locked: others should not wait for a store. What was kept before is only looked for.
    manifest = keep(uow, result)
    if not still_ours(uow.session, job, held):
        raise DomainError("job.lost", job=job)
    release = releases.still_ingesting(uow, release_id)
    if release is None:
        return False
    blobs, run = uow.tools.blobs, str(result["run"])
    release.manifest = result["manifest_sha256"]
    uow.after_commit(lambda: blobs.discard(run))
    if release.origin:
        staging = release_sources.staging_of(release)
        release_downloads.forget(uow.session, release.id)
        uow.after_commit(lambda: blobs.discard(staging))
    if release.source.startswith(PUSHED):
        _end_push(uow, release)
    keep_stats(release, None if release.copied else result["stats"])
    release.total_bytes = manifest.total_bytes
    release.summary = result["summary"]
    release.state = move("release", release.state, "ready")
    release.ready_at = now()
    releases.touch(release)
    worker = Principal(INSTALLATION, frozenset({"admin"}), job)
    files, front = manifest.listing(), result["front"]
    event = ReleaseReady(
        manifest=release.manifest, bytes=release.total_bytes, release_id=release.id, files=files, front=front
    )  # fmt: skip
    uow.family_event(event, worker, release.family.name, release.name)
    return True


def keep_stats(release: Release, stats: Mapping[str, Sequence[Any]] | None) -> None:
    """Records the identities of the files of a release by reference.

    For a directory, ctime and device go into a separate column: processes of the previous version, which keep running during an
    upgrade, expect three values for each file.
    """
    if stats is None:
        release.stats = release.identities = None
        return
    release.stats = {path: list(stat[:STAT_FIELDS]) for path, stat in stats.items()}
    release.identities = {path: list(stat[STAT_FIELDS:]) for path, stat in stats.items()}


def _end_push(uow: UnitOfWork, release: Release) -> None:
    """What was pushed is the release's from now on."""
    push = uow.session.get(Push, release.source.removeprefix(PUSHED))
    if push:
        pushed_objects.forget(uow, [file["object"] for file in push.files])
        uow.session.delete(push)


def clear(uow: UnitOfWork, order: dict[str, Any]) -> None:
    """Drops what a run staged that ended without a result."""
    uow.tools.blobs.discard(order["run"])

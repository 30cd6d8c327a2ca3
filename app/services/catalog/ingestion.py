"""Ingestion: the kind of job that reads a release."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.core.manifest import Manifest
from app.db import release_downloads
from app.db import releases as rows
from app.db.base import now
from app.db.pushes import Push
from app.db.releases import Release
from app.domain.events.families import ReleaseReady, ReleaseRegistered, ReleaseRejected
from app.domain.principal import INSTALLATION, Principal
from app.services.catalog import release_sources
from app.services.catalog.orders import IngestOrder, IngestResult, UpstreamCommit
from app.services.catalog.release_sources import PUSHED
from app.services.jobs.kinds import Done, RowKind
from app.services.unit_of_work import UnitOfWork
from app.services.uploads import pushed_objects

MANIFEST_FILE = "manifest.json"
# The number of `stats` values of a file: size, mtime and inode.
STAT_FIELDS = 3


class Ingestion(RowKind[Release, IngestOrder, IngestResult]):
    """Digests a release and makes it ready. The job is urgent, because other work waits for the release."""

    name, noun, model, task, result = Release.JOB, "release", Release, "app.jobs.tasks.ingest", IngestResult
    owner, own_place, urgent = INSTALLATION, True, True
    queued = running = "ingesting"
    failed = cancelled = "rejected"

    def find(self, session: Session, subject: str) -> Release | None:
        return rows.get(session, subject)

    def describe(self, row: Release) -> str:
        return f"{row.family.name}/{row.name}"

    def make_order(self, uow: UnitOfWork, row: Release) -> IngestOrder:
        # A name of its own for every run: one that was lost to another worker may still be writing.
        run = f"{row.id}-{secrets.token_hex(4)}"
        copy = row.copied and not release_sources.lies_here(row)
        return IngestOrder(run, release_sources.order_of(uow, row), uow.tools.blobs.sink(run), copy)

    def keep(self, uow: UnitOfWork, order: IngestOrder, result: IngestResult) -> Manifest:
        uow.hold_gc()
        blobs = uow.tools.blobs
        blobs.adopt(order.run, {MANIFEST_FILE: result.manifest})
        manifest = uow.tools.artifacts.read_manifest(result.manifest)
        if order.copy or isinstance(order.source, UpstreamCommit):
            blobs.adopt(order.run, {f"files/{path}": sha256 for path, sha256 in manifest.file_digests.items()})
        return manifest

    def record(self, uow: UnitOfWork, row: Release, done: Done[IngestOrder, IngestResult]) -> None:
        uow.after_commit(lambda: uow.tools.blobs.discard(done.order.run))
        if row.origin:
            staging = release_sources.staging_of(row)
            release_downloads.forget(uow.session, row.id)
            uow.after_commit(lambda: uow.tools.blobs.discard(staging))
        if row.source.startswith(PUSHED):
            _end_push(uow, row)
        keep_stats(row, None if row.copied else done.result.stats)
        row.manifest, row.total_bytes, row.summary = done.result.manifest, done.kept.total_bytes, dict(done.result.summary)
        self.finish(uow, row, "ready")
        row.ready_at = now()
        event = ReleaseReady(
            manifest=row.manifest, bytes=row.total_bytes, release_id=row.id, files=done.kept.listing(),
            front=done.result.front_matter,
        )  # fmt: skip
        uow.family_event(event, done.worker, row.family.name, row.name)

    def tell_failed(self, uow: UnitOfWork, row: Release, worker: Principal, problem: dict[str, Any]) -> None:
        event = ReleaseRejected(code=problem["code"], detail=problem["detail"])
        uow.family_event(event, worker, row.family.name, row.name)

    def clear(self, uow: UnitOfWork, order: IngestOrder) -> None:
        uow.tools.blobs.discard(order.run)

    def allow(self, uow: UnitOfWork, principal: Principal, row: Release) -> None:  # noqa: ARG002
        release_sources.order_of(uow, row)

    def tell_queued(self, uow: UnitOfWork, principal: Principal, row: Release) -> None:
        uow.family_event(ReleaseRegistered(source=row.source), principal, row.family.name, row.name)


INGESTION = Ingestion()


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

"""Cleans up abandoned drafts, staged bytes and unfinished multipart uploads of merged models.

For the garbage collection of blobs see `app.services.operations.garbage_collection`.
"""

import datetime as dt

from app.blobs.s3.client import shared_client, translated
from app.blobs.s3.target import S3Target
from app.core.recipe import Recipe
from app.db import materialisations, patches, pushes, releases
from app.db.base import clock
from app.db.patches import PURGED
from app.domain.repositories import MAIN
from app.domain.s3_uri import S3Uri
from app.domain.states import move
from app.services.catalog.release_sources import PUSHED
from app.services.hubview.pushes import end
from app.services.unit_of_work import UnitOfWork
from app.services.uploads import pushed_objects

DRAFT_AGE = dt.timedelta(days=1)
# What is sent is older than the push that names it, which may take long.
OBJECT_AGE = dt.timedelta(days=2)
# Blocks that files were put together from: another shard of the same session may still be made of them.
SPENT_AGE = dt.timedelta(hours=1)
# How long after its end a materialisation's place is looked at for parts: its process may outlive its worker for a moment.
PARTS_AGE = dt.timedelta(days=2)


def drafts(uow: UnitOfWork) -> int:
    """Discards drafts that were not finished within a day; returns how many."""
    present = clock(uow.session)
    found = patches.drafts_before(uow.session, present - DRAFT_AGE)
    for version in found:
        version.state = move("version", version.state, "discarded")
    return len(found)


def pushed(uow: UnitOfWork) -> int:
    """Drops what was pushed by the Hub protocol and left alone for a day, and blocks whose files are there; how many pushes."""
    present = clock(uow.session)
    found = pushes.old_pushes(uow.session, present - DRAFT_AGE)
    for push in found:
        if releases.is_ingesting(uow.session, f"{PUSHED}{push.id}"):
            continue
        if push.files or push.patch_id or push.revision != MAIN:  # one that is announced only costs nothing, and stays
            end(uow, push, keep_announced=True)
    old = pushes.old_objects(uow.session, present - OBJECT_AGE, present - SPENT_AGE, present - DRAFT_AGE)
    pushed_objects.forget(uow, [row.id for row in old])
    return len(found)


def staged(uow: UnitOfWork) -> int:
    """Drops what was staged and then left alone for a day; returns how many uploads that were."""
    blobs = uow.tools.blobs
    found = [upload for upload, age in blobs.uploads() if age > DRAFT_AGE.total_seconds()]
    for upload in found:
        blobs.discard(upload)
    return len(found)


def unwritten(uow: UnitOfWork) -> list[str]:
    """Materialisations that ended lately without their model being there."""
    return [row.id for row in materialisations.ended_since(uow.session, clock(uow.session) - PARTS_AGE)]


def parts(uow: UnitOfWork, ident: str) -> int:
    """Drops what such a materialisation left in parts: its worker was killed, then it was cancelled or given up.

    Args:
        uow: a transaction that writes: until it ends, nobody begins that materialisation again.
        ident: the materialisation.

    Returns:
        How many uploads in parts that were.

    Raises:
        DomainError: place.not_allowed, storage.unavailable, storage.refused, blob.missing.
    """
    row = materialisations.get(uow.session, ident)
    if row is None:
        return 0
    uow.lock(row)
    if row.port.state == PURGED:  # without its bytes there is no plan; its erasure sees to it
        return 0
    if row.state not in ("failed", "cancelled") or row.target in materialisations.busy_targets(uow.session):
        return 0
    place = S3Uri.parse(row.target)
    place.require_below(uow.tools.allowed_s3)
    files = uow.tools.artifacts.plan(row.port.release, row.port.version, Recipe.from_dict(row.port.recipe)).files
    with translated():
        return S3Target(shared_client(), place.bucket, place.prefix, row.port.fingerprint).abort_all(files)

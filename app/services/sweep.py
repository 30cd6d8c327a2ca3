"""Clean-up of what was abandoned: drafts, staged bytes, blobs that nothing names, parts of models, remembered answers.

Bytes are removed in two steps, because looking for them takes long. First what nothing names is looked for, while others go on.
Then a few at a time are looked at again and removed, while nobody may begin to name bytes (`UnitOfWork.names_bytes`): what was
named or arrived again meanwhile stays. A draft names its bytes from its beginning on, so what is published was named all along.
"""

import datetime as dt
from collections.abc import Sequence

from app.blobs.s3_client import shared_client, translated
from app.blobs.s3_target import S3Target
from app.core.recipe import Recipe
from app.db import idempotency, materialisations, patches, releases
from app.db.base import clock
from app.db.locks import BYTES, try_turn
from app.domain.places import Place
from app.domain.states import move
from app.services.uow import UnitOfWork

DRAFT_AGE = dt.timedelta(days=1)
ANSWER_AGE = dt.timedelta(days=1)
# Bytes exist for a moment before the row that names them is committed.
BLOB_GRACE = dt.timedelta(hours=1)
# How long after its end a materialisation's place is looked at for parts: its process may outlive its worker for a moment.
PARTS_AGE = dt.timedelta(days=2)


def drafts(uow: UnitOfWork) -> int:
    """Discards drafts that nobody finished in a day, and forgets answers; returns how many drafts that were."""
    present = clock(uow.session)
    found = patches.drafts_before(uow.session, present - DRAFT_AGE)
    for version in found:
        version.state = move("version", version.state, "discarded")
    idempotency.forget_before(uow.session, present - ANSWER_AGE)
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
    if row.state not in ("failed", "cancelled") or row.target in materialisations.busy_targets(uow.session):
        return 0
    place = Place.parse(row.target)
    place.require_below(uow.tools.allowed_s3)
    files = uow.tools.library.plan(row.port.release, row.port.version, Recipe.from_dict(row.port.recipe)).files
    with translated():
        return S3Target(shared_client(), place.bucket, place.prefix, row.port.fingerprint).abort_all(files)


def unnamed(uow: UnitOfWork) -> list[str]:
    """Digests of bytes that nothing names, and that are too old to be on their way to a name."""
    named = _named(uow)
    return [d for d, age in uow.tools.blobs.digests() if d not in named and age > BLOB_GRACE.total_seconds()]


def remove(uow: UnitOfWork, digests: Sequence[str]) -> int | None:
    """Removes bytes that still nothing names and that are still old.

    Args:
        uow: a transaction of its own that writes, and ends soon: others wait who want to name bytes.
        digests: few.

    Returns:
        How many were removed; None when somebody is just naming bytes, and it should be tried again.
    """
    if not try_turn(uow.session, BYTES):
        return None
    named = _named(uow)
    grace = BLOB_GRACE.total_seconds()
    return sum(uow.tools.blobs.delete(digest, older_than=grace) for digest in digests if digest not in named)


def _named(uow: UnitOfWork) -> set[str]:
    named = patches.blob_digests(uow.session) | releases.manifest_digests(uow.session)
    for release in releases.copied(uow.session):
        named |= set(uow.tools.library.manifest(release).file_digests.values())
    return named

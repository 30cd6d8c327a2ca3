"""Clean-up of what was abandoned: drafts, staged bytes, blobs that nothing names, remembered answers."""

import datetime as dt

from app.db import idempotency, patches, releases
from app.db.base import now
from app.domain.states import move
from app.services.uow import UnitOfWork

DRAFT_AGE = dt.timedelta(days=1)
ANSWER_AGE = dt.timedelta(days=1)
# A blob exists for a moment before the row that names it is committed.
BLOB_GRACE = dt.timedelta(hours=1)


def sweep(uow: UnitOfWork) -> dict[str, int]:
    """Removes what was abandoned; returns how many of each were removed."""
    drafts = patches.drafts_before(uow.session, now() - DRAFT_AGE)
    for version in drafts:
        version.state = move("version", version.state, "discarded")
    idempotency.forget_before(uow.session, now() - ANSWER_AGE)
    blobs = uow.tools.blobs
    staged = [upload for upload, age in blobs.uploads() if age > DRAFT_AGE.total_seconds()]
    for upload in staged:
        blobs.discard(upload)
    named = patches.blob_digests(uow.session) | releases.manifest_digests(uow.session)
    for release in releases.copied(uow.session):
        named |= set(uow.tools.library.manifest(release).file_digests.values())
    unnamed = [d for d, age in blobs.digests() if d not in named and age > BLOB_GRACE.total_seconds()]
    for digest in unnamed:
        blobs.delete(digest)
    return {"drafts": len(drafts), "staged": len(staged), "blobs": len(unnamed)}

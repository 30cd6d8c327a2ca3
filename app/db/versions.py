"""Queries for many patch versions at once: by id, or all published versions of a patch."""

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session, joinedload

from app.db.patches import PURGED, Patch, PatchVersion

_WITH_NAMES = (
    joinedload(PatchVersion.patch).joinedload(Patch.family),
    joinedload(PatchVersion.trained_on),
)


def among(session: Session, idents: Sequence[str]) -> Sequence[PatchVersion]:
    """Returns those of the given versions that exist."""
    return session.scalars(select(PatchVersion).where(PatchVersion.id.in_(idents)).options(*_WITH_NAMES)).all()


class Published(NamedTuple):
    """The number of a published version; `at` is when it was published."""

    id: str
    number: int | None
    at: dt.datetime


def published(session: Session, patch_id: str, before: int | None = None) -> list[Published]:
    """Returns all published versions of a patch, or those below the number `before`, newest first."""
    at = func.coalesce(PatchVersion.published_at, PatchVersion.created_at)
    query = select(PatchVersion.id, PatchVersion.number, at)
    query = query.where(PatchVersion.patch_id == patch_id, PatchVersion.state == "published")
    if before is not None:
        query = query.where(PatchVersion.number < before)
    return [Published(*row) for row in session.execute(query.order_by(PatchVersion.number.desc()))]


def kept_among(session: Session, idents: Sequence[str]) -> set[str]:
    """Returns the ids of those versions that are not purged, and locks them against a purge until this transaction ends."""
    query = select(PatchVersion.id).where(PatchVersion.id.in_(idents), PatchVersion.state != PURGED)
    return set(session.scalars(query.order_by(PatchVersion.id).with_for_update(read=True)))

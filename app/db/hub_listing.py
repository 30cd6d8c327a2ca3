"""Lists of what repositories show: patches and families by name, for clients of the Hub protocol."""

import datetime as dt
from typing import NamedTuple

from sqlalchemy import literal, select
from sqlalchemy.orm import Session

from app.db.families import Family, visible_to
from app.db.patches import Patch


class Line(NamedTuple):
    """A patch or a family in a list; `owner` is None for a family, `family_id` its own id."""

    id: str
    owner: str | None
    name: str
    family_id: str
    family: str
    created_at: dt.datetime


def patches(
    session: Session, owner: str | None, family_id: str | None, search: str | None, after: str | None, limit: int
) -> list[Line]:
    """Newest first; `search` is part of a repository's name, of the merged one's too."""
    query = select(Patch.id, Patch.owner, Patch.name, Patch.family_id, Family.name, Patch.created_at)
    query = query.join(Family, Patch.family_id == Family.id)
    if owner is not None:
        query = query.where(Patch.owner == owner)
    if family_id is not None:
        query = query.where(Patch.family_id == family_id)
    if search:
        query = query.where((Patch.owner + "/" + Patch.name + literal(".merged")).contains(search, autoescape=True))
    if after:
        query = query.where(Patch.id < after)
    return [Line(*row) for row in session.execute(query.order_by(Patch.id.desc()).limit(limit))]


def families(session: Session, reader: str | None, search: str | None, after: str | None, limit: int) -> list[Line]:
    """Newest first, of those that `reader` may see."""
    query = select(Family.id, Family.name, Family.created_at)
    if reader is not None:
        query = query.where(Family.id.in_(visible_to(reader)))
    if search:
        query = query.where((literal("base/") + Family.name).contains(search, autoescape=True))
    if after:
        query = query.where(Family.id < after)
    rows = session.execute(query.order_by(Family.id.desc()).limit(limit))
    return [Line(ident, None, name, ident, name, at) for ident, name, at in rows]


def visible_families(session: Session, reader: str) -> set[str]:
    """Ids of the families that an owner may see."""
    return set(session.scalars(visible_to(reader)))

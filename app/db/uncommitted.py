"""Versions, ports and releases that are visible to Hub clients and have no recorded commit yet."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, exists, select
from sqlalchemy.orm import Session

from app.db.commits import Commit
from app.db.patches import PatchVersion
from app.db.ports import CANONICAL, Port
from app.db.releases import Release


def page(session: Session, kind: str, after: str, limit: int) -> Sequence[str]:
    """Returns a page of their ids for one kind of commit, in order, starting after the id `after`."""
    subject: Any = {"base": Release.id, "patch": PatchVersion.id}.get(kind, Port.id)
    written = exists().where(Commit.subject == subject, Commit.kind == kind)
    return session.scalars(_visible(kind).where(~written, subject > after).order_by(subject).limit(limit)).all()


def _visible(kind: str) -> Select[str]:
    if kind == "base":
        return select(Release.id).where(Release.state == "ready")
    if kind == "patch":
        return select(PatchVersion.id).where(PatchVersion.state == "published")
    visible = select(Port.id).join(PatchVersion, Port.version_id == PatchVersion.id)
    return visible.where(CANONICAL, PatchVersion.state == "published")

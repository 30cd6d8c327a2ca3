"""Materialisations: merged models written to a place of somebody's own."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ForeignKey, String, UniqueConstraint, func, select
from sqlalchemy.orm import Mapped, Session, joinedload, mapped_column, relationship

from app.db.base import Base, Identified, Versioned, page
from app.db.patches import Patch, PatchVersion
from app.db.ports import Port
from app.db.releases import Release


class Materialisation(Identified, Versioned, Base):
    """A merged model that was asked for at a place.

    Attributes:
        target: s3://bucket/prefix.
        attempt: how often it was begun; part of its job's id.
        result: {files, bytes_copied, bytes_moved} once it is done.
        problem: why it failed.
    """

    __tablename__ = "materialisations"
    __table_args__ = (UniqueConstraint("port_id", "target"),)

    port_id: Mapped[str] = mapped_column(ForeignKey("ports.id"))
    owner: Mapped[str] = mapped_column(String(64), index=True)
    target: Mapped[str] = mapped_column(String(1100))
    state: Mapped[str] = mapped_column(String(20), index=True)
    attempt: Mapped[int] = mapped_column(default=1)
    result: Mapped[dict[str, Any] | None]
    problem: Mapped[dict[str, Any] | None]
    finished_at: Mapped[dt.datetime | None]

    port: Mapped[Port] = relationship(lazy="raise")


_WITH_PORT = (
    joinedload(Materialisation.port).joinedload(Port.version).joinedload(PatchVersion.patch).joinedload(Patch.family),
    joinedload(Materialisation.port).joinedload(Port.release).joinedload(Release.family),
)


def get(session: Session, ident: str) -> Materialisation | None:
    return session.scalar(select(Materialisation).where(Materialisation.id == ident).options(*_WITH_PORT))


def at(session: Session, port_id: str, target: str) -> Materialisation | None:
    query = select(Materialisation).where(Materialisation.port_id == port_id, Materialisation.target == target)
    return session.scalar(query.options(*_WITH_PORT))


def list_page(session: Session, port_id: str, after: str | None, limit: int) -> Sequence[Materialisation]:
    query = select(Materialisation).where(Materialisation.port_id == port_id).options(*_WITH_PORT)
    return page(session, query, Materialisation, after, limit)


def unfinished(session: Session, limit: int) -> Sequence[Materialisation]:
    """Those that wait or run, the oldest first."""
    query = select(Materialisation).where(Materialisation.state.in_(("queued", "running"))).options(*_WITH_PORT)
    return session.scalars(query.order_by(Materialisation.id).limit(limit)).all()


def count(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Materialisation)) or 0


def everything(session: Session, after: str | None, limit: int) -> Sequence[Materialisation]:
    """One page of those of all ports."""
    return page(session, select(Materialisation).options(*_WITH_PORT), Materialisation, after, limit)

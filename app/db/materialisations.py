"""Materialisations: merged models written to a place of somebody's own."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ForeignKey, String, UniqueConstraint, func, or_, select, update
from sqlalchemy.orm import Mapped, Session, joinedload, mapped_column, relationship

from app.db.base import Base, page, state_constraint
from app.db.job_backed import JobBacked
from app.db.patches import Patch, PatchVersion
from app.db.ports import Port
from app.db.releases import Release


class Materialisation(JobBacked, Base):
    """A merged model that was asked for at a place.

    Attributes:
        target: s3://bucket/prefix.
        result: {files, bytes_copied, bytes_moved} once it is done.
    """

    __tablename__ = "materialisations"
    __table_args__ = (UniqueConstraint("port_id", "target"), state_constraint("materialisation"))

    JOB = "materialise"

    port_id: Mapped[str] = mapped_column(ForeignKey("ports.id"))
    owner: Mapped[str] = mapped_column(String(64), index=True)
    target: Mapped[str] = mapped_column(String(1100))
    result: Mapped[dict[str, Any] | None]

    port: Mapped[Port] = relationship(lazy="raise")


UNFINISHED = ("queued", "running")
_WITH_PORT = (
    joinedload(Materialisation.port).joinedload(Port.version).joinedload(PatchVersion.patch).joinedload(Patch.family),
    joinedload(Materialisation.port).joinedload(Port.release).joinedload(Release.family),
)


def get(session: Session, ident: str) -> Materialisation | None:
    return session.scalar(select(Materialisation).where(Materialisation.id == ident).options(*_WITH_PORT))


def at(session: Session, port_id: str, target: str) -> Materialisation | None:
    query = select(Materialisation).where(Materialisation.port_id == port_id, Materialisation.target == target)
    return session.scalar(query.options(*_WITH_PORT))


def move(session: Session, old_port: str, new_port: str) -> None:
    """Gives those of one port to another with the same recipe."""
    session.execute(update(Materialisation).where(Materialisation.port_id == old_port).values(port_id=new_port))


def ended_since(session: Session, moment: dt.datetime) -> Sequence[Materialisation]:
    """Those that failed or were cancelled since a moment."""
    query = select(Materialisation).where(
        Materialisation.state.in_(("failed", "cancelled")), Materialisation.finished_at > moment
    )
    return session.scalars(query.options(*_WITH_PORT)).all()


def busy_targets(session: Session) -> set[str]:
    """Places that something is being written to, or will be."""
    return set(session.scalars(select(Materialisation.target).where(Materialisation.state.in_(UNFINISHED))))


def list_page(session: Session, port_id: str, after: str | None, limit: int) -> Sequence[Materialisation]:
    query = select(Materialisation).where(Materialisation.port_id == port_id).options(*_WITH_PORT)
    return page(session, query, Materialisation, after, limit)


def of_version(session: Session, version_id: str) -> Sequence[Materialisation]:
    """Those of all ports of a version, in every state."""
    query = select(Materialisation).join(Port, Materialisation.port_id == Port.id).where(Port.version_id == version_id)
    return session.scalars(query.order_by(Materialisation.id).options(*_WITH_PORT)).all()


def living_below(session: Session, target: str) -> Sequence[Materialisation]:
    """Those at a place or below it that are there, or will be, of versions that were not purged."""
    query = select(Materialisation).join(Port, Materialisation.port_id == Port.id)
    query = query.where(
        Port.state != "purged", Materialisation.state.in_((*UNFINISHED, "done")),
        or_(Materialisation.target == target, Materialisation.target.startswith(f"{target}/", autoescape=True)),
    )  # fmt: skip
    return session.scalars(query.options(*_WITH_PORT)).all()


def count(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Materialisation)) or 0


def everything(session: Session, after: str | None, limit: int) -> Sequence[Materialisation]:
    """One page of those of all ports."""
    return page(session, select(Materialisation).options(*_WITH_PORT), Materialisation, after, limit)

"""Ports."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ForeignKey, String, UniqueConstraint, func, select
from sqlalchemy.orm import Mapped, Session, joinedload, mapped_column, relationship

from app.db.base import Base, Identified, Versioned, page
from app.db.patches import Patch, PatchVersion
from app.db.releases import Release


class Port(Identified, Versioned, Base):
    """A patch version carried to a release with a recipe.

    Attributes:
        fingerprint: names the merged bytes; with `forced`, the natural key of a port.
        findings: [{code, severity, message, data}].
        fidelity: the sampled figure, replaced by the exact one when the digest job ran.
        digests: sha256 by path of computed files, once a job computed them.
        reason: why it was forced or approved, and by whom.
    """

    __tablename__ = "ports"
    __table_args__ = (UniqueConstraint("version_id", "release_id", "fingerprint", "forced"),)

    version_id: Mapped[str] = mapped_column(ForeignKey("patch_versions.id"))
    release_id: Mapped[str] = mapped_column(ForeignKey("releases.id"), index=True)
    owner: Mapped[str] = mapped_column(String(64), index=True)
    state: Mapped[str] = mapped_column(String(20), index=True)
    recipe: Mapped[dict[str, Any]]
    fingerprint: Mapped[str] = mapped_column(String(64))
    forced: Mapped[bool]
    reason: Mapped[str | None] = mapped_column(String(2000))
    findings: Mapped[list[Any]]
    fidelity: Mapped[dict[str, Any] | None]
    digests: Mapped[dict[str, Any] | None]
    digest_attempt: Mapped[int] = mapped_column(default=0)
    ready_at: Mapped[dt.datetime | None]

    version: Mapped[PatchVersion] = relationship(lazy="raise")
    release: Mapped[Release] = relationship(lazy="raise")


_WITH_NAMES = (
    joinedload(Port.version).joinedload(PatchVersion.patch).joinedload(Patch.family),
    joinedload(Port.version).joinedload(PatchVersion.trained_on),
    joinedload(Port.release).joinedload(Release.family),
)


def get(session: Session, port_id: str) -> Port | None:
    return session.scalar(select(Port).where(Port.id == port_id).options(*_WITH_NAMES))


def existing(session: Session, version_id: str, release_id: str, fingerprint: str, forced: bool) -> Port | None:
    query = select(Port).where(
        Port.version_id == version_id, Port.release_id == release_id, Port.fingerprint == fingerprint, Port.forced == forced
    )
    return session.scalar(query.options(*_WITH_NAMES))


def list_page(
    session: Session,
    owner: str | None,
    patch_id: str | None,
    version_id: str | None,
    release_id: str | None,
    state: str | None,
    after: str | None,
    limit: int,
) -> Sequence[Port]:
    query = select(Port).options(*_WITH_NAMES)
    if owner:
        query = query.where(Port.owner == owner)
    if patch_id:
        query = query.join(PatchVersion, Port.version_id == PatchVersion.id).where(PatchVersion.patch_id == patch_id)
    for column, value in ((Port.version_id, version_id), (Port.release_id, release_id), (Port.state, state)):
        if value:
            query = query.where(column == value)
    return page(session, query, Port, after, limit)


def count(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Port)) or 0


def counts(session: Session) -> dict[str, int]:
    """How many are in each state; read from the index over states."""
    return dict(session.execute(select(Port.state, func.count()).group_by(Port.state)).tuples().all())

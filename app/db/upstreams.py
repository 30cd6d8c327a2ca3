"""Upstreams: hubs that the installation pulls from."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db.base import Base, Identified, Versioned


class Upstream(Identified, Versioned, Base):
    """A hub; belongs to the installation.

    Attributes:
        token: encrypted, see `app.services.access.encryption`.
        private_hosts, http_hosts: lists of host names, see `app.domain.upstreams.Hub`.
        publishers: whether publishers may import from it; otherwise only admins may.
    """

    __tablename__ = "upstreams"

    name: Mapped[str] = mapped_column(String(64), unique=True)
    endpoint: Mapped[str] = mapped_column(String(500))
    token: Mapped[str | None] = mapped_column(String(2000))
    private_hosts: Mapped[list[Any]]
    http_hosts: Mapped[list[Any]]
    publishers: Mapped[bool]


def by_name(session: Session, name: str) -> Upstream | None:
    return session.scalar(select(Upstream).where(Upstream.name == name))


def everything(session: Session) -> Sequence[Upstream]:
    """All of them by name; there are few."""
    return session.scalars(select(Upstream).order_by(Upstream.name)).all()


def locked(session: Session) -> Sequence[Upstream]:
    """All of them, which nobody else changes before this transaction ends."""
    return session.scalars(select(Upstream).order_by(Upstream.id).with_for_update(key_share=True)).all()

"""Families."""

from collections.abc import Sequence

from sqlalchemy import String, bindparam, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db.base import Base, Identified, Versioned, page


class Family(Identified, Versioned, Base):
    """A line of base models; belongs to the installation."""

    __tablename__ = "families"

    name: Mapped[str] = mapped_column(String(64), unique=True)
    owner: Mapped[str] = mapped_column(String(64))
    description: Mapped[str] = mapped_column(String(2000), default="")


_BY_NAME = select(Family).where(Family.name == bindparam("name"))


def by_name(session: Session, name: str) -> Family | None:
    return session.scalar(_BY_NAME, {"name": name})


def list_page(session: Session, after: str | None, limit: int) -> Sequence[Family]:
    return page(session, select(Family), Family, after, limit)

"""Aliases of patches."""

from collections.abc import Sequence

from sqlalchemy import ForeignKey, ForeignKeyConstraint, String, UniqueConstraint, bindparam, func, select
from sqlalchemy.orm import Mapped, Session, joinedload, mapped_column, relationship

from app.db.base import Base, Identified, Versioned, page
from app.db.patches import WITH_NAMES, PatchVersion


class Alias(Identified, Versioned, Base):
    """A movable name for a version."""

    __tablename__ = "aliases"
    __table_args__ = (
        UniqueConstraint("patch_id", "name"),
        ForeignKeyConstraint(
            ["version_id", "patch_id"], ["patch_versions.id", "patch_versions.patch_id"], name="fk_aliases_version_of_patch"
        ),
    )

    patch_id: Mapped[str] = mapped_column(ForeignKey("patches.id"))
    owner: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(64))
    version_id: Mapped[str] = mapped_column(ForeignKey("patch_versions.id"))

    version: Mapped[PatchVersion] = relationship(lazy="raise", foreign_keys=version_id)


_WITH_VERSION = (joinedload(Alias.version).options(*WITH_NAMES),)
_BY_NAME = select(Alias).where(Alias.patch_id == bindparam("patch"), Alias.name == bindparam("name")).options(*_WITH_VERSION)


def by_name(session: Session, patch_id: str, name: str) -> Alias | None:
    return session.scalar(_BY_NAME, {"patch": patch_id, "name": name})


_ALIASES, _VERSIONS = Alias.__table__, PatchVersion.__table__
_NUMBERS = (
    select(_ALIASES.c.name, _VERSIONS.c.number)
    .join(_VERSIONS, _ALIASES.c.version_id == _VERSIONS.c.id)
    .where(_ALIASES.c.patch_id == bindparam("patch"))
    .order_by(_ALIASES.c.name)
)


def numbers(session: Session, patch_id: str) -> dict[str, int | None]:
    """Returns the aliases of a patch, each with the number of its version."""
    return dict(session.execute(_NUMBERS, {"patch": patch_id}).all())


def count(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Alias)) or 0


def everything(session: Session, after: str | None, limit: int) -> Sequence[Alias]:
    """Returns one page of the aliases of all patches."""
    return page(session, select(Alias).options(*_WITH_VERSION), Alias, after, limit)


def get(session: Session, ident: str) -> Alias | None:
    return session.scalar(select(Alias).where(Alias.id == ident).options(*_WITH_VERSION))

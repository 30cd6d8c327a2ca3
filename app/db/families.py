"""Families, and who may see them."""

from collections import defaultdict
from collections.abc import Collection, Sequence

from sqlalchemy import ForeignKey, Select, String, UniqueConstraint, bindparam, exists, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db.base import Base, Identified, Versioned, page

EVERYBODY = "*"


class Family(Identified, Versioned, Base):
    """A line of base models; belongs to the installation."""

    __tablename__ = "families"

    name: Mapped[str] = mapped_column(String(64), unique=True)
    owner: Mapped[str] = mapped_column(String(64))
    description: Mapped[str] = mapped_column(String(2000), default="")


class FamilyGrant(Identified, Base):
    """Lets an owner's tokens, or `EVERYBODY`, see a family, port to its releases and read models merged with them."""

    __tablename__ = "family_grants"
    __table_args__ = (UniqueConstraint("family_id", "owner"),)

    family_id: Mapped[str] = mapped_column(ForeignKey("families.id"))
    owner: Mapped[str] = mapped_column(String(64), index=True)


_BY_NAME = select(Family).where(Family.name == bindparam("name"))


def by_name(session: Session, name: str) -> Family | None:
    return session.scalar(_BY_NAME, {"name": name})


def list_page(session: Session, reader: str | None, after: str | None, limit: int) -> Sequence[Family]:
    """Families that an owner may see; all of them for None."""
    query = select(Family) if reader is None else select(Family).where(Family.id.in_(visible_to(reader)))
    return page(session, query, Family, after, limit)


def visible_to(reader: str) -> Select[str]:
    """The ids of the families that an owner may see."""
    return select(FamilyGrant.family_id).where(FamilyGrant.owner.in_((reader, EVERYBODY)))


def is_visible(session: Session, family_id: str, reader: str) -> bool:
    found = exists().where(FamilyGrant.family_id == family_id, FamilyGrant.owner.in_((reader, EVERYBODY)))
    return bool(session.scalar(select(found)))


def grant(session: Session, family_id: str, owner: str) -> FamilyGrant | None:
    return session.scalar(select(FamilyGrant).where(FamilyGrant.family_id == family_id, FamilyGrant.owner == owner))


def grants(session: Session, family_id: str) -> Sequence[FamilyGrant]:
    return session.scalars(select(FamilyGrant).where(FamilyGrant.family_id == family_id).order_by(FamilyGrant.owner)).all()


def readers(session: Session, names: Collection[str]) -> dict[str, set[str]]:
    """Returns the owners that may see each of these families, by name; includes `EVERYBODY` if it was granted to all."""
    query = select(Family.name, FamilyGrant.owner).join(FamilyGrant).where(Family.name.in_(names))
    found = defaultdict[str, set[str]](set)
    for name, owner in session.execute(query):
        found[name].add(owner)
    return found


def readable(session: Session, idents: Collection[str]) -> dict[str, set[str]]:
    """Returns the owners that may see each of these families, like `readers`, but by id."""
    found = defaultdict[str, set[str]](set)
    for ident, owner in session.execute(
        select(FamilyGrant.family_id, FamilyGrant.owner).where(FamilyGrant.family_id.in_(idents))
    ):
        found[ident].add(owner)
    return found

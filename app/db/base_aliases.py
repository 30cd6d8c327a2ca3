"""What others call our bases: names by which the configuration of a patch says what it was trained on."""

from collections.abc import Sequence

from sqlalchemy import ForeignKey, String, select
from sqlalchemy.orm import Mapped, Session, joinedload, mapped_column, relationship

from app.db.base import Base, Identified, page
from app.db.families import Family
from app.db.releases import Release


class BaseAlias(Identified, Base):
    """A name of a family, or of one of its releases, somewhere else; belongs to the installation.

    Attributes:
        key: name and revision as they are compared, see `key_of`.
        name: as it is written there, such as meta-llama/Llama-3-8B.
        revision: the one revision there that is meant; None: all that nothing else is said of.
        release_id: None where the name tells the family alone.
    """

    __tablename__ = "base_names"

    owner: Mapped[str] = mapped_column(String(64))
    key: Mapped[str] = mapped_column(String(400), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    revision: Mapped[str | None] = mapped_column(String(100))
    family_id: Mapped[str] = mapped_column(ForeignKey("families.id"), index=True)
    release_id: Mapped[str | None] = mapped_column(ForeignKey("releases.id"))

    family: Mapped[Family] = relationship(lazy="raise")
    release: Mapped[Release | None] = relationship(lazy="raise")


_LOADED = (joinedload(BaseAlias.family), joinedload(BaseAlias.release))


def key_of(name: str, revision: str | None) -> str:
    """Hubs do not tell upper from lower case in names of repositories; in revisions they do. No name holds an '@'."""
    return f"{name.lower()}@{revision}" if revision else name.lower()


def by_key(session: Session, key: str) -> BaseAlias | None:
    return session.scalar(select(BaseAlias).where(BaseAlias.key == key).options(*_LOADED))


def get(session: Session, family_id: str, ident: str) -> BaseAlias | None:
    return session.scalar(select(BaseAlias).where(BaseAlias.id == ident, BaseAlias.family_id == family_id).options(*_LOADED))


def list_page(session: Session, family_id: str, after: str | None, limit: int) -> Sequence[BaseAlias]:
    """One page of a family's names, newest first, one more than `limit`."""
    query = select(BaseAlias).where(BaseAlias.family_id == family_id).options(*_LOADED)
    return page(session, query, BaseAlias, after, limit)

"""Imports: patches that are brought in from an upstream."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ForeignKey, Index, String, select
from sqlalchemy.orm import Mapped, Session, joinedload, mapped_column, relationship

from app.db.base import Base, page, state_constraint
from app.db.job_backed import JobBacked
from app.db.patches import Patch, PatchVersion


class Import(JobBacked, Base):
    """One repository of an upstream on its way to become a version of a patch.

    Attributes:
        batch: of the request that asked for it: the id of its first import.
        owner, name: of the patch; `named` where somebody chose the name, and it was not made of the repository's.
        revision: as it was asked for; `commit` what it meant when it was fetched.
        trained_on: a release, "unknown", or null: what the base's alias says.
        asked_by: {owner, scopes, token, address, request} of the principal.
        facts: {base_model, family, trained_on, bytes, dropped} once it has ended well.
    """

    __tablename__ = "imports"
    __table_args__ = (
        state_constraint("import"),
        Index("ix_imports_batch", "batch", "id"),
        Index("ix_imports_owner", "owner", "id"),
        Index("ix_imports_origin", "owner", "upstream", "repository"),
    )

    JOB = "import"

    batch: Mapped[str] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(89))
    named: Mapped[bool]
    upstream: Mapped[str] = mapped_column(String(64))
    repository: Mapped[str] = mapped_column(String(96))
    revision: Mapped[str] = mapped_column(String(200))
    commit: Mapped[str | None] = mapped_column(String(40))
    trained_on: Mapped[str | None] = mapped_column(String(64))
    asked_by: Mapped[dict[str, Any]]
    version_id: Mapped[str | None] = mapped_column(ForeignKey("patch_versions.id"))
    facts: Mapped[dict[str, Any] | None]

    version: Mapped[PatchVersion | None] = relationship(lazy="raise")

    @property
    def patch(self) -> str:
        return f"{self.owner}/{self.name}"


SETTLED = ("imported", "present")
_WITH_VERSION = (joinedload(Import.version).joinedload(PatchVersion.patch).joinedload(Patch.family),)


def get(session: Session, ident: str) -> Import | None:
    return session.scalar(select(Import).where(Import.id == ident).options(*_WITH_VERSION))


def list_page(
    session: Session, owner: str | None, batch: str | None, state: str | None, after: str | None, limit: int
) -> Sequence[Import]:
    query = select(Import).options(*_WITH_VERSION)
    if owner is not None:
        query = query.where(Import.owner == owner)
    if batch:
        query = query.where(Import.batch == batch)
    if state:
        query = query.where(Import.state == state)
    return page(session, query, Import, after, limit)


def settled(session: Session, owner: str, upstream: str, repository: str) -> Sequence[Import]:
    """Those of a repository that became versions of an owner's patches, newest first."""
    query = select(Import).where(
        Import.owner == owner, Import.upstream == upstream, Import.repository == repository, Import.state.in_(SETTLED)
    )
    return session.scalars(query.order_by(Import.id.desc()).limit(100).options(*_WITH_VERSION)).all()


def origins(session: Session, owner: str, name: str) -> set[tuple[str, str]]:
    """(upstream, repository) of everything that was imported into a patch."""
    query = select(Import.upstream, Import.repository).where(
        Import.owner == owner, Import.name == name, Import.state.in_(SETTLED)
    )
    return set(session.execute(query.distinct()).tuples())

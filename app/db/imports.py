"""Imports: patches that are brought in from an upstream."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ForeignKey, Index, String, func, select
from sqlalchemy.orm import Mapped, Session, joinedload, mapped_column, relationship

from app.db.base import Base, Identified, Versioned, page, state_constraint
from app.db.patches import Patch, PatchVersion


class Import(Identified, Versioned, Base):
    """One repository of an upstream on its way to become a version of a patch.

    Attributes:
        batch: of the request that asked for it: the id of its first import.
        owner, name: of the patch; `named` where somebody chose the name, and it was not made of the repository's.
        revision: as it was asked for; `commit` what it meant when it was fetched.
        trained_on: a release, "unknown", or null: what the base's alias says.
        asked_by: {owner, scopes, token, address, request} of the principal.
        attempt: part of its job's id.
        facts: {base_model, family, trained_on, bytes, dropped} once it has ended well.
        problem: why it was refused.
    """

    __tablename__ = "imports"
    __table_args__ = (
        state_constraint("import"),
        Index("ix_imports_batch", "batch", "id"),
        Index("ix_imports_owner", "owner", "id"),
        Index("ix_imports_origin", "owner", "upstream", "repository"),
    )

    batch: Mapped[str] = mapped_column(String(40))
    owner: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(89))
    named: Mapped[bool]
    upstream: Mapped[str] = mapped_column(String(64))
    repository: Mapped[str] = mapped_column(String(96))
    revision: Mapped[str] = mapped_column(String(200))
    commit: Mapped[str | None] = mapped_column(String(40))
    trained_on: Mapped[str | None] = mapped_column(String(64))
    asked_by: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(20), index=True)
    attempt: Mapped[int] = mapped_column(default=1)
    version_id: Mapped[str | None] = mapped_column(ForeignKey("patch_versions.id"))
    facts: Mapped[dict[str, Any] | None]
    problem: Mapped[dict[str, Any] | None]
    finished_at: Mapped[dt.datetime | None]

    version: Mapped[PatchVersion | None] = relationship(lazy="raise")

    @property
    def patch(self) -> str:
        return f"{self.owner}/{self.name}"


UNFINISHED = ("queued", "running")
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


def unfinished(session: Session) -> Sequence[tuple[str, str, int]]:
    """Returns owner, id and attempt of every import that waits for its job, the oldest first."""
    query = select(Import.owner, Import.id, Import.attempt).where(Import.state.in_(UNFINISHED)).order_by(Import.id)
    return session.execute(query).tuples().all()


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


def count(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Import)) or 0


def everything(session: Session, after: str | None, limit: int) -> Sequence[Import]:
    """One page of those of all owners."""
    return page(session, select(Import).options(*_WITH_VERSION), Import, after, limit)

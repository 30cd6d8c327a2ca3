"""Patches, their versions and aliases."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, UniqueConstraint, func, select
from sqlalchemy.orm import Mapped, Session, joinedload, mapped_column, relationship

from app.db.base import Base, Identified, Versioned, page
from app.db.families import Family
from app.db.releases import Release


class Patch(Identified, Versioned, Base):
    """What a team owns: owner/name, of one family."""

    __tablename__ = "patches"
    __table_args__ = (UniqueConstraint("owner", "name"),)

    owner: Mapped[str] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(String(89))
    family_id: Mapped[str] = mapped_column(ForeignKey("families.id"), index=True)
    description: Mapped[str] = mapped_column(String(2000), default="")

    family: Mapped[Family] = relationship(lazy="raise")

    @property
    def full_name(self) -> str:
        return f"{self.owner}/{self.name}"


class PatchVersion(Identified, Versioned, Base):
    """One upload.

    Attributes:
        number: 1, 2, 3, ...; given when it is published.
        digest: sha256 over its files' paths and digests; one published version of a patch has it.
        files: [{path, size, sha256}].
        dropped: names of announced files that do not belong to a patch.
        facts: rank, alpha, target modules, tensors and dtype; for lists.
        multiparts: for a draft whose bytes go straight to the object store: its id of each file's upload, by path.
    """

    __tablename__ = "patch_versions"
    __table_args__ = (
        UniqueConstraint("patch_id", "number"),
        Index("uq_patch_versions_published_digest", "patch_id", "published_digest", unique=True),
    )

    patch_id: Mapped[str] = mapped_column(ForeignKey("patches.id"))
    owner: Mapped[str] = mapped_column(String(64))
    number: Mapped[int | None]
    state: Mapped[str] = mapped_column(String(20), index=True)
    digest: Mapped[str] = mapped_column(String(64))
    published_digest: Mapped[str | None] = mapped_column(String(64))
    files: Mapped[list[Any]]
    dropped: Mapped[list[Any]]
    total_bytes: Mapped[int] = mapped_column(BigInteger)
    trained_on_id: Mapped[str | None] = mapped_column(ForeignKey("releases.id"))
    facts: Mapped[dict[str, Any] | None]
    multiparts: Mapped[dict[str, Any] | None]
    yank_reason: Mapped[str | None] = mapped_column(String(2000))
    published_at: Mapped[dt.datetime | None]

    patch: Mapped[Patch] = relationship(lazy="raise")
    trained_on: Mapped[Release | None] = relationship(lazy="raise")


class Alias(Identified, Versioned, Base):
    """A movable name for a version."""

    __tablename__ = "aliases"
    __table_args__ = (UniqueConstraint("patch_id", "name"),)

    patch_id: Mapped[str] = mapped_column(ForeignKey("patches.id"))
    owner: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(64))
    version_id: Mapped[str] = mapped_column(ForeignKey("patch_versions.id"))

    version: Mapped[PatchVersion] = relationship(lazy="raise")


_PATCH = (joinedload(Patch.family),)
_VERSION = (
    joinedload(PatchVersion.patch).joinedload(Patch.family),
    joinedload(PatchVersion.trained_on),
)
PUBLISHED = ("published", "yanked")


def by_name(session: Session, owner: str, name: str) -> Patch | None:
    return session.scalar(select(Patch).where(Patch.owner == owner, Patch.name == name).options(*_PATCH))


def list_page(session: Session, owner: str | None, family_id: str | None, after: str | None, limit: int) -> Sequence[Patch]:
    query = select(Patch).options(*_PATCH)
    if owner:
        query = query.where(Patch.owner == owner)
    if family_id:
        query = query.where(Patch.family_id == family_id)
    return page(session, query, Patch, after, limit)


def version(session: Session, version_id: str) -> PatchVersion | None:
    return session.scalar(select(PatchVersion).where(PatchVersion.id == version_id).options(*_VERSION))


def version_by_number(session: Session, patch_id: str, number: int) -> PatchVersion | None:
    query = select(PatchVersion).where(PatchVersion.patch_id == patch_id, PatchVersion.number == number)
    return session.scalar(query.options(*_VERSION))


def version_by_digest(session: Session, patch_id: str, digest: str) -> PatchVersion | None:
    query = select(PatchVersion).where(PatchVersion.patch_id == patch_id, PatchVersion.published_digest == digest)
    return session.scalar(query.options(*_VERSION))


def newest_version(session: Session, patch_id: str) -> PatchVersion | None:
    """What `main` means: the newest version that is published and not yanked."""
    query = select(PatchVersion).where(PatchVersion.patch_id == patch_id, PatchVersion.state == "published")
    return session.scalar(query.order_by(PatchVersion.number.desc()).limit(1).options(*_VERSION))


def next_number(session: Session, patch_id: str) -> int:
    return (session.scalar(select(func.max(PatchVersion.number)).where(PatchVersion.patch_id == patch_id)) or 0) + 1


def versions_page(session: Session, patch_id: str, after: str | None, limit: int) -> Sequence[PatchVersion]:
    """By number, not by id: a draft that was opened first may be published last."""
    query = select(PatchVersion).where(PatchVersion.patch_id == patch_id, PatchVersion.state.in_(PUBLISHED))
    if after:
        query = query.where(PatchVersion.number < select(PatchVersion.number).where(PatchVersion.id == after).scalar_subquery())
    return session.scalars(query.order_by(PatchVersion.number.desc()).limit(limit + 1).options(*_VERSION)).all()


def drafts_before(session: Session, moment: dt.datetime) -> Sequence[PatchVersion]:
    """Locked; those that somebody is just publishing are left out."""
    query = select(PatchVersion).where(PatchVersion.state == "draft", PatchVersion.created_at < moment)
    return session.scalars(query.with_for_update(key_share=True, skip_locked=True)).all()


def count_versions(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(PatchVersion)) or 0


def all_versions(session: Session, after: str | None, limit: int) -> Sequence[PatchVersion]:
    """One page of all versions of all patches, in every state."""
    return page(session, select(PatchVersion).options(*_VERSION), PatchVersion, after, limit)


def states_of(session: Session, versions: Sequence[str]) -> dict[str, str]:
    """States by id, of those versions that there are."""
    rows = session.execute(select(PatchVersion.id, PatchVersion.state).where(PatchVersion.id.in_(versions)))
    return {row.id: row.state for row in rows}


def blob_digests(session: Session) -> set[str]:
    """sha256 of every blob that a published version holds, or an open draft will."""
    rows = session.scalars(select(PatchVersion.files).where(PatchVersion.state.in_(("draft", *PUBLISHED))))
    return {file["sha256"] for files in rows for file in files}


def alias(session: Session, patch_id: str, name: str) -> Alias | None:
    query = select(Alias).where(Alias.patch_id == patch_id, Alias.name == name)
    return session.scalar(query.options(joinedload(Alias.version).options(*_VERSION)))


def aliases(session: Session, patch_id: str) -> Sequence[Alias]:
    query = select(Alias).where(Alias.patch_id == patch_id).order_by(Alias.name)
    return session.scalars(query.options(joinedload(Alias.version))).all()


def count_aliases(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Alias)) or 0


def all_aliases(session: Session, after: str | None, limit: int) -> Sequence[Alias]:
    """One page of the aliases of all patches."""
    query = select(Alias).options(joinedload(Alias.version).options(*_VERSION))
    return page(session, query, Alias, after, limit)


def get_alias(session: Session, ident: str) -> Alias | None:
    return session.scalar(select(Alias).where(Alias.id == ident).options(joinedload(Alias.version).options(*_VERSION)))

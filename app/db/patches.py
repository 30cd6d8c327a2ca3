"""Patches and their versions."""

import datetime as dt
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Select,
    String,
    Text,
    UniqueConstraint,
    bindparam,
    cast,
    func,
    or_,
    select,
)
from sqlalchemy.orm import Mapped, Session, joinedload, mapped_column, relationship

from app.db.base import Base, Identified, Versioned, page, state_constraint
from app.db.families import Family
from app.db.releases import Release


class Patch(Identified, Versioned, Base):
    """What a team owns: owner/name, of one family.

    Attributes:
        trained_on: the release that a push was trained on which does not tell; None: such a push waits for somebody to say.
    """

    __tablename__ = "patches"
    __table_args__ = (UniqueConstraint("owner", "name"), Index("ix_patches_owner_id", "owner", "id"))

    owner: Mapped[str] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(String(89))
    family_id: Mapped[str] = mapped_column(ForeignKey("families.id"), index=True)
    description: Mapped[str] = mapped_column(String(2000), default="")
    trained_on: Mapped[str | None] = mapped_column(String(64))

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
        multiparts: for direct transfers to the object store: the store's id of each file's multipart upload, by path.
        refusal: why verification refused a draft, {code, data}; reset to None when one of its files changes.
        purged_by: owner and token of the purge.
        erasure: {state, blobs, copies, waits_for, checked_at}, see `app.services.operations.erasure`.
        erased_at: when the erasure was completed.
    """

    __tablename__ = "patch_versions"
    __table_args__ = (
        UniqueConstraint("patch_id", "number"),
        state_constraint("version"),
        CheckConstraint(
            "state NOT IN ('draft', 'discarded') OR number IS NULL AND published_digest IS NULL AND published_at IS NULL",
            name="unpublished",
        ),
        CheckConstraint(
            "state NOT IN ('published', 'yanked') OR number IS NOT NULL AND published_digest IS NOT NULL"
            " AND published_digest = digest AND published_at IS NOT NULL AND facts IS NOT NULL"
            " AND CAST(facts AS TEXT) <> 'null'",  # None is JSON's null
            name="published",
        ),
        CheckConstraint(
            "state <> 'purged' OR purged_at IS NOT NULL AND (number IS NULL"
            " OR erasure IS NOT NULL AND CAST(erasure AS TEXT) <> 'null'"
            " AND published_digest IS NOT NULL AND published_digest = digest)",
            name="purged",
        ),
        # Targets of composite foreign keys: an alias and its version have the same patch, a port and its version the same owner.
        Index("uq_patch_versions_id_patch_id", "id", "patch_id", unique=True),
        Index("uq_patch_versions_id_owner", "id", "owner", unique=True),
        Index("uq_patch_versions_published_digest", "patch_id", "published_digest", unique=True),
        Index("ix_patch_versions_owner_state", "owner", "state"),
        Index("ix_patch_versions_owner_state_total_bytes", "owner", "state", "total_bytes"),
        Index("ix_patch_versions_state_total_bytes", "state", "total_bytes"),
        Index("ix_patch_versions_digest", "digest"),
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
    refusal: Mapped[dict[str, Any] | None]
    yank_reason: Mapped[str | None] = mapped_column(String(2000))
    published_at: Mapped[dt.datetime | None]
    purged_at: Mapped[dt.datetime | None]
    purged_by: Mapped[str | None] = mapped_column(String(200))
    purge_reason: Mapped[str | None] = mapped_column(String(2000))
    erasure: Mapped[dict[str, Any] | None]
    erased_at: Mapped[dt.datetime | None]

    patch: Mapped[Patch] = relationship(lazy="raise")
    trained_on: Mapped[Release | None] = relationship(lazy="raise")


_PATCH = (joinedload(Patch.family),)
WITH_NAMES = (
    joinedload(PatchVersion.patch).joinedload(Patch.family),
    joinedload(PatchVersion.trained_on),
)
PUBLISHED = ("published", "yanked")
PURGED = "purged"
# Versions whose bytes are kept: those that have a number, and those that will.
LIVING = ("draft", *PUBLISHED)


# Statements that every other request asks are made once: making one costs as much as running it.
_BY_NAME = select(Patch).where(Patch.owner == bindparam("owner"), Patch.name == bindparam("name")).options(*_PATCH)


def by_name(session: Session, owner: str, name: str) -> Patch | None:
    return session.scalar(_BY_NAME, {"owner": owner, "name": name})


class PatchLine(NamedTuple):
    """A patch in a list."""

    id: str
    owner: str
    name: str
    family: str
    description: str
    created_at: dt.datetime


def list_page(session: Session, owner: str | None, family_id: str | None, after: str | None, limit: int) -> list[PatchLine]:
    """Newest first, one more than `limit`, as lines: a page of mapped rows costs three times as much, and nobody changes them."""
    chosen = {"owner": owner, "family_id": family_id, "after": after}
    given = {name: value for name, value in chosen.items() if value}
    return [PatchLine(*row) for row in session.execute(_lines(frozenset(given)), {**given, "limit": limit + 1})]


@cache
def _lines(given: frozenset[str]) -> Select[str, str, str, str, str, dt.datetime]:
    """The statement of a page, for what is asked for."""
    patch, family = Patch.__table__.c, Family.__table__.c
    query = select(patch.id, patch.owner, patch.name, family.name, patch.description, patch.created_at)
    query = query.select_from(Patch.__table__.join(Family.__table__, patch.family_id == family.id))
    for name in given - {"after"}:
        query = query.where(patch[name] == bindparam(name))
    if "after" in given:
        query = query.where(patch.id < bindparam("after"))
    return query.order_by(patch.id.desc()).limit(bindparam("limit"))


_BY_ID = select(PatchVersion).where(PatchVersion.id == bindparam("id")).options(*WITH_NAMES)
_OF_PATCH = select(PatchVersion).where(PatchVersion.patch_id == bindparam("patch")).options(*WITH_NAMES)
_BY_NUMBER = _OF_PATCH.where(PatchVersion.number == bindparam("number"))
_NEWEST = _OF_PATCH.where(PatchVersion.state == "published").order_by(PatchVersion.number.desc()).limit(1)


def version(session: Session, version_id: str) -> PatchVersion | None:
    return session.scalar(_BY_ID, {"id": version_id})


def version_by_number(session: Session, patch_id: str, number: int) -> PatchVersion | None:
    return session.scalar(_BY_NUMBER, {"patch": patch_id, "number": number})


def version_by_digest(session: Session, patch_id: str, digest: str) -> PatchVersion | None:
    query = select(PatchVersion).where(PatchVersion.patch_id == patch_id, PatchVersion.published_digest == digest)
    return session.scalar(query.options(*WITH_NAMES))


def newest_version(session: Session, patch_id: str) -> PatchVersion | None:
    """What `main` means: the newest version that is published and not yanked."""
    return session.scalar(_NEWEST, {"patch": patch_id})


def next_number(session: Session, patch_id: str) -> int:
    return (session.scalar(select(func.max(PatchVersion.number)).where(PatchVersion.patch_id == patch_id)) or 0) + 1


def versions_page(session: Session, patch_id: str, after: str | None, limit: int) -> Sequence[PatchVersion]:
    """By number, not by id: a draft that was opened first may be published last. Tombstones keep their place."""
    query = select(PatchVersion).where(PatchVersion.patch_id == patch_id, PatchVersion.number.is_not(None))
    if after:
        query = query.where(PatchVersion.number < select(PatchVersion.number).where(PatchVersion.id == after).scalar_subquery())
    return session.scalars(query.order_by(PatchVersion.number.desc()).limit(limit + 1).options(*WITH_NAMES)).all()


def draft_files(session: Session, patch_id: str, limit: int) -> Sequence[list[dict[str, Any]]]:
    """The files of a patch's last open drafts."""
    query = select(PatchVersion.files).where(PatchVersion.patch_id == patch_id, PatchVersion.state == "draft")
    return session.scalars(query.order_by(PatchVersion.id.desc()).limit(limit)).all()


def drafts_before(session: Session, moment: dt.datetime) -> Sequence[PatchVersion]:
    """Locked; those that somebody is just publishing are left out."""
    query = select(PatchVersion).where(PatchVersion.state == "draft", PatchVersion.created_at < moment)
    return session.scalars(query.with_for_update(key_share=True, skip_locked=True)).all()


def count_versions(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(PatchVersion)) or 0


def all_versions(session: Session, after: str | None, limit: int) -> Sequence[PatchVersion]:
    """One page of all versions of all patches, in every state."""
    return page(session, select(PatchVersion).options(*WITH_NAMES), PatchVersion, after, limit)


def states_of(session: Session, versions: Sequence[str]) -> dict[str, str]:
    """States by id, of those versions that there are."""
    rows = session.execute(select(PatchVersion.id, PatchVersion.state).where(PatchVersion.id.in_(versions)))
    return {row.id: row.state for row in rows}


def erased_among(session: Session, digests: Collection[str]) -> set[str]:
    """Returns the subset of the digests that files of erased versions had. Reads the file lists of all erased versions."""
    query = select(PatchVersion.files).where(PatchVersion.erased_at.is_not(None), PatchVersion.number.is_not(None))
    query = query.where(or_(*(cast(PatchVersion.files, Text).contains(digest) for digest in digests)))
    return {file["sha256"] for files in session.scalars(query) for file in files}.intersection(digests)


def purged_digest(session: Session, owner: str, digest: str) -> PatchVersion | None:
    """The version of an owner's that had these files and was purged."""
    query = select(PatchVersion).where(
        PatchVersion.digest == digest, PatchVersion.owner == owner, PatchVersion.state == PURGED, PatchVersion.number.is_not(None)
    )
    return session.scalars(query.options(*WITH_NAMES).limit(1)).first()


def unpublished_of(session: Session, owner: str, digest: str) -> Sequence[PatchVersion]:
    """Drafts of an owner's that announced these files, those that were given up or purged too."""
    query = select(PatchVersion).where(PatchVersion.digest == digest, PatchVersion.owner == owner, PatchVersion.number.is_(None))
    return session.scalars(query.order_by(PatchVersion.id).options(*WITH_NAMES)).all()


def unerased(session: Session) -> Sequence[str]:
    """Purged versions of which something may still be there."""
    query = select(PatchVersion.id).where(PatchVersion.state == PURGED, PatchVersion.erased_at.is_(None))
    return session.scalars(query.order_by(PatchVersion.id)).all()


def purged_among(session: Session, versions: Sequence[str]) -> Sequence[str]:
    """Which of some versions were purged."""
    query = select(PatchVersion.id).where(PatchVersion.id.in_(versions), PatchVersion.state == PURGED)
    return session.scalars(query).all()

"""Quotas that were set for an owner, and what owners have."""

from sqlalchemy import BigInteger, Select, String, func, or_, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db import pushes
from app.db.base import Base, Versioned, now
from app.db.patches import PUBLISHED, Patch, PatchVersion
from app.db.ports import Port
from app.db.tokens import Token
from app.domain.quotas import KINDS, Kind


class OwnerQuota(Versioned, Base):
    """What was set for an owner; None: as for all."""

    __tablename__ = "owner_quotas"

    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    patches: Mapped[int | None] = mapped_column(BigInteger)
    versions: Mapped[int | None] = mapped_column(BigInteger)
    drafts: Mapped[int | None] = mapped_column(BigInteger)
    ports: Mapped[int | None] = mapped_column(BigInteger)
    tokens: Mapped[int | None] = mapped_column(BigInteger)
    jobs: Mapped[int | None] = mapped_column(BigInteger)

    def own(self) -> dict[Kind, int | None]:
        """What was set, by kind."""
        return {kind: getattr(self, kind) for kind in KINDS}


def find(session: Session, owner: str) -> OwnerQuota | None:
    return session.get(OwnerQuota, owner)


def used(session: Session, owner: str, kind: Kind) -> int:
    """Returns an owner's usage of a kind other than jobs, by an index over owners. Pushed bytes that are not part of a version
    yet count too.
    """
    pushed = {"bytes": pushes.bytes_of, "drafts": pushes.count, "patches": pushes.announced}.get(kind)
    return int(session.scalar(_count(owner, kind)) or 0) + (pushed(session, owner) if pushed else 0)


def _count(owner: str, kind: Kind) -> Select[int]:
    if kind == "bytes":  # of what holds bytes, or will as soon as they arrive
        total = func.sum(PatchVersion.total_bytes)
        return select(total).where(PatchVersion.owner == owner, PatchVersion.state.in_(("draft", *PUBLISHED)))
    counted = select(func.count())
    if kind == "patches":
        return counted.select_from(Patch).where(Patch.owner == owner)
    if kind == "versions":
        return counted.select_from(PatchVersion).where(PatchVersion.owner == owner, PatchVersion.state.in_(PUBLISHED))
    if kind == "drafts":
        return counted.select_from(PatchVersion).where(PatchVersion.owner == owner, PatchVersion.state == "draft")
    if kind == "ports":
        return counted.select_from(Port).where(Port.owner == owner, Port.state != "retired")
    lasts = or_(Token.expires_at.is_(None), Token.expires_at > now())
    return counted.select_from(Token).where(Token.owner == owner, Token.revoked_at.is_(None), lasts)

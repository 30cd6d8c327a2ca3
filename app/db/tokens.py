"""Tokens."""

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Row, String, bindparam, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db.base import Base, Identified, now, page


class Token(Identified, Base):
    """A bearer token; only the sha256 of it is kept, which is safe for 256 random bits."""

    __tablename__ = "tokens"

    owner: Mapped[str] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(String(200))
    scopes: Mapped[list[Any]]
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    revoked_at: Mapped[dt.datetime | None]
    expires_at: Mapped[dt.datetime | None]
    # Of one that was exchanged for an identity token, or made by such a one: who vouched for whom.
    issuer: Mapped[str | None] = mapped_column(String(500))
    subject: Mapped[str | None] = mapped_column(String(255))
    # The token that created or rotated this one; null if it was created before this was recorded.
    made_by: Mapped[str | None] = mapped_column(String(40))


# Asked for every request: made once, and of the table, because nobody changes what it finds.
_TOKENS = Token.__table__.c
_BY_HASH = select(_TOKENS.id, _TOKENS.owner, _TOKENS.scopes, _TOKENS.expires_at).where(
    _TOKENS.hash == bindparam("hashed"), _TOKENS.revoked_at.is_(None)
)  # fmt: skip


def by_hash(session: Session, hashed: str) -> Row[str, str, list[Any], dt.datetime | None] | None:
    """Id, owner, scopes and end of a token that is not revoked."""
    return session.execute(_BY_HASH, {"hashed": hashed}).one_or_none()


def any_is_revoked(session: Session, idents: Collection[str]) -> bool:
    """Returns whether any of these tokens was revoked. An id without a row is the id of a job."""
    query = select(_TOKENS.id).where(_TOKENS.id.in_(idents), _TOKENS.revoked_at.is_not(None))
    return session.scalar(query.limit(1)) is not None


def any_exists(session: Session) -> bool:
    return session.scalar(select(Token.id).limit(1)) is not None


def made_by(session: Session, token: str) -> Sequence[Token]:
    """Returns the tokens that another token created or rotated."""
    return session.scalars(select(Token).where(Token.made_by == token)).all()


def list_page(session: Session, owner: str | None, after: str | None, limit: int) -> Sequence[Token]:
    query = select(Token) if owner is None else select(Token).where(Token.owner == owner)
    return page(session, query, Token, after, limit)


def ends(session: Session, idents: Collection[str]) -> dict[str, dt.datetime | None]:
    """Returns when each of these tokens expires; omits revoked tokens."""
    query = select(_TOKENS.id, _TOKENS.expires_at).where(_TOKENS.id.in_(idents), _TOKENS.revoked_at.is_(None))
    return {row.id: row.expires_at for row in session.execute(query)}


def valid(session: Session, idents: Collection[str]) -> dict[str, dt.datetime | None]:
    """Returns the valid ones of these tokens, with their expiry times; used to check long-lived responses."""
    present = now()
    return {ident: end for ident, end in ends(session, idents).items() if end is None or end > present}

"""Tokens: made once, shown once, kept as a hash."""

import hashlib
import secrets
from collections.abc import Sequence

from app.db import tokens as rows
from app.db.base import now
from app.db.locks import FIRST_TOKEN, take_turn
from app.db.tokens import Token
from app.domain.errors import DomainError
from app.domain.ids import new_id
from app.domain.names import check_owner
from app.domain.principal import INSTALLATION, SCOPES, Principal, check_scopes
from app.services.uow import UnitOfWork

PREFIX = "plt_"
ADMIN = "admin"


def authenticate(uow: UnitOfWork, secret: str) -> Principal:
    """Raises `DomainError` (token.missing) for a token that is not valid."""
    token = rows.by_hash(uow.session, _hash(secret)) if secret.startswith(PREFIX) else None
    if token is None:
        raise DomainError("token.missing")
    return Principal(token.owner, frozenset(token.scopes), token.id)


def is_good(uow: UnitOfWork, principal: Principal) -> bool:
    """Whether the principal's token still is: asked again and again by answers that stay open."""
    token = uow.session.get(Token, principal.token)
    return token is not None and token.revoked_at is None


def create(uow: UnitOfWork, principal: Principal, owner: str, scopes: Sequence[str], name: str = "") -> tuple[Token, str]:
    """Makes a token; returns it with its secret, which is not kept."""
    principal.require_admin()
    return _issue(uow, principal, check_owner(owner), check_scopes(scopes), name)


def bootstrap(uow: UnitOfWork) -> str | None:
    """The first admin token of an installation; None when there are tokens already."""
    take_turn(uow.session, FIRST_TOKEN)  # replicas that start together
    if rows.any_exists(uow.session):
        return None
    installer = Principal(INSTALLATION, frozenset({"admin"}), "bootstrap")
    return _issue(uow, installer, ADMIN, list(SCOPES), "made at first start")[1]


def revoke(uow: UnitOfWork, principal: Principal, token_id: str) -> Token:
    principal.require_admin()
    token = uow.session.get(Token, token_id)
    if token is None:
        raise DomainError("token.unknown", token=token_id[:60])
    uow.lock(token)
    if token.revoked_at is None:
        token.revoked_at = now()
        uow.event("token.revoked", principal, token.owner, token.id)
    return token


def list_page(uow: UnitOfWork, principal: Principal, after: str | None, limit: int) -> Sequence[Token]:
    principal.require_admin()
    return rows.list_page(uow.session, after, limit)


def _issue(uow: UnitOfWork, principal: Principal, owner: str, scopes: list[str], name: str) -> tuple[Token, str]:
    secret = PREFIX + secrets.token_urlsafe(32)
    token = Token(id=new_id("tok"), created_at=now(), owner=owner, name=name, scopes=scopes, hash=_hash(secret), revoked_at=None)
    uow.add(token)
    uow.event("token.created", principal, owner, token.id, scopes=scopes)
    return token, secret


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()

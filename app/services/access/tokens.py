"""Tokens: made once, shown once, kept as a hash."""

import datetime as dt
import hashlib
import secrets
from collections.abc import Sequence
from typing import NamedTuple

from app.db import tokens as rows
from app.db.base import now
from app.db.locks import FIRST_TOKEN, advisory_lock
from app.db.tokens import Token
from app.domain.errors import DomainError
from app.domain.events.access import TokenCreated, TokenExchanged, TokenRevoked, TokenRotated
from app.domain.ids import new_id
from app.domain.names import check_owner
from app.domain.principal import INSTALLATION, SCOPES, Principal, check_scopes
from app.services.access.quotas import open_account
from app.services.unit_of_work import UnitOfWork

PREFIX = "plt_"
ADMIN = "admin"
SELF = "self"


class TokenOrigin(NamedTuple):
    """Whom an issuer vouched for, and the number of the rule that admitted it; None for what such a token made."""

    issuer: str
    subject: str
    rule: int | None = None


def authenticate(uow: UnitOfWork, secret: str, address: str | None = None, request: str | None = None) -> Principal:
    """Whose token this is.

    Args:
        address, request: what the audit trail says of everything that is done with it, see `Principal`.

    Raises:
        DomainError: token.missing for one that is not valid, token.expired for one that was.
    """
    token = rows.by_hash(uow.session, _hash(secret)) if secret.startswith(PREFIX) else None
    if token is None:
        raise DomainError("token.missing")
    if token.expires_at is not None and token.expires_at <= now():
        raise DomainError("token.expired", at=token.expires_at.isoformat(timespec="seconds"))
    return Principal(token.owner, frozenset(token.scopes), token.id, address, request)


def holder(uow: UnitOfWork, ident: str) -> Principal:
    """Returns the principal of the token with this id.

    Raises:
        DomainError: token.missing, if it is no longer valid.
    """
    token = uow.session.get(Token, ident)
    if token is None or not _is_valid(token):
        raise DomainError("token.missing")
    return Principal(token.owner, frozenset(token.scopes), token.id)


def is_good(uow: UnitOfWork, principal: Principal) -> bool:
    """Returns whether the principal's token is still valid."""
    return bool(rows.valid(uow.session, [principal.token]))


def own(uow: UnitOfWork, principal: Principal) -> Token:
    """The token that the principal holds."""
    return _manageable(uow, principal, SELF)


def create(
    uow: UnitOfWork, principal: Principal, owner: str, scopes: Sequence[str], name: str = "", lifetime: dt.timedelta | None = None
) -> tuple[Token, str]:
    """Creates a token; returns it with its secret, which is not stored. An operator may create tokens for its own owner only, and
    no admin tokens.

    No token outlives the token that created it. If that one was exchanged for an identity token, the new token also records that
    identity.

    Args:
        lifetime: counted from now; without one the token is valid until it is revoked or the token that created it expires.

    Raises:
        DomainError: token.scope, token.scopes, quota.exceeded; token.outlives; token.missing, if the principal's token has ended.
    """
    checked = check_scopes(scopes)
    if "admin" in checked:
        principal.require_admin()
    principal.require_operate(owner)
    open_account(uow, check_owner(owner), "tokens").charge(tokens=1)
    maker = _maker(uow, principal)
    end = now() + lifetime if lifetime else _end_of(maker)
    _require_within(maker, end)
    return _issue(uow, principal, owner, checked, name, end, _word_of(maker))


def issue_for(uow: UnitOfWork, principal: Principal, expires_at: dt.datetime, source: TokenOrigin) -> tuple[Token, str]:
    """Makes a token for whom an issuer vouched, with the owner and scopes of `principal`; returns it with its secret."""
    scopes = check_scopes(principal.scopes)
    open_account(uow, principal.owner, "tokens").charge(tokens=1)
    return _issue(uow, principal, principal.owner, scopes, source.subject[:200], expires_at, source)


def rotate(uow: UnitOfWork, principal: Principal, token_id: str, grace: dt.timedelta) -> tuple[Token, str]:
    """Replaces a token with a new one like it. The old one ends at once, or after a grace period in which its holders switch.

    The holder of a token may rotate it. The new token has the same lifetime as the old one, but never outlives the token that was
    used for the rotation: a token that rotates itself gets a new secret and keeps its expiry; a longer-lived token extends it.

    Raises:
        DomainError: token.unknown; token.over; token.outlives; oidc.rotate, for a token that needs a new identity token;
            quota.exceeded, if both tokens would be valid for a while; token.missing, if the principal's own token has ended.
    """
    old = _manageable(uow, principal, token_id)
    account = open_account(uow, old.owner, "tokens")
    if principal.token < old.id:  # in the order of ids: two tokens that rotate each other do not wait for each other
        _maker(uow, principal)
    uow.lock(old)
    if not _is_valid(old):
        raise DomainError("token.over", token=old.id)
    if old.issuer is not None:
        raise DomainError("oidc.rotate", token=old.id)
    maker = _maker(uow, principal)
    _require_within(maker, old.expires_at)  # otherwise the caller would gain a longer-lived token, or cut it short
    lasts = now() + (old.expires_at - old.created_at) if old.expires_at else None
    if lasts and (longest := _end_of(maker)):
        lasts = min(lasts, longest)
    if grace:  # for a while there are both
        account.charge(tokens=1)
    end = now() + grace
    made = _issue(uow, principal, old.owner, old.scopes, old.name, lasts, _word_of(maker))
    if grace:
        old.expires_at = min(old.expires_at or end, end)
    else:
        old.revoked_at = now()
    uow.event(TokenRotated(by=made[0].id), principal, old.owner, old.id)
    return made


def bootstrap(uow: UnitOfWork) -> str | None:
    """The first admin token of an installation; None when there are tokens already."""
    advisory_lock(uow.session, FIRST_TOKEN)  # replicas that start together
    if rows.any_exists(uow.session):
        return None
    installer = Principal(INSTALLATION, frozenset({"admin"}), "bootstrap")
    return _issue(uow, installer, ADMIN, list(SCOPES), "made at first start")[1]


def revoke(uow: UnitOfWork, principal: Principal, token_id: str, with_made: bool = False) -> Token:
    """Revokes a token at once; its holder may do so too.

    Args:
        with_made: also revokes, recursively, the tokens that it created or rotated; the principal must be able to manage all.
    """
    token = _manageable(uow, principal, token_id)
    _end(uow, principal, token)
    waiting, seen = [token.id], {token.id}
    while with_made and waiting:
        for made in rows.made_by(uow.session, waiting.pop()):
            if made.id not in seen:
                seen.add(made.id)
                waiting.append(made.id)
                _end(uow, principal, _manageable(uow, principal, made.id))
    return token


def _end(uow: UnitOfWork, principal: Principal, token: Token) -> None:
    uow.lock(token)
    if token.revoked_at is None:
        token.revoked_at = now()
        uow.event(TokenRevoked(), principal, token.owner, token.id)


def list_page(uow: UnitOfWork, principal: Principal, after: str | None, limit: int) -> Sequence[Token]:
    """All tokens for an admin, its owner's for an operator."""
    principal.require_operate(principal.owner)
    return rows.list_page(uow.session, None if principal.is_admin else principal.owner, after, limit)


def _manageable(uow: UnitOfWork, principal: Principal, token_id: str) -> Token:
    """A token that the principal holds ("self" means it) or manages; those of other owners do not exist for it."""
    if token_id == SELF:
        token_id = principal.token
    if token_id != principal.token:
        principal.require_operate(principal.owner)
    token = uow.session.get(Token, token_id)
    if token is None or not principal.can_read(token.owner):
        raise DomainError("token.unknown", token=token_id[:60])
    if "admin" in token.scopes and token.id != principal.token:
        principal.require_admin()
    return token


def _maker(uow: UnitOfWork, principal: Principal) -> Token | None:
    """Returns the principal's token with its row locked, so that it is not revoked before the tokens it creates are recorded.

    Returns None for a principal without a token row. A request is authenticated before its body is read, which may take a minute,
    so its token may have ended since.

    Raises:
        DomainError: token.missing, if the token is no longer valid.
    """
    maker = uow.session.get(Token, principal.token)
    if maker is not None:
        uow.lock(maker, shared=True)
        if not _is_valid(maker):
            raise DomainError("token.missing")
    return maker


def _end_of(maker: Token | None) -> dt.datetime | None:
    return maker.expires_at if maker else None


def _require_within(maker: Token | None, end: dt.datetime | None) -> None:
    """Raises `DomainError` (token.outlives) if an expiry is later than that of the creating token."""
    longest = _end_of(maker)
    if longest is not None and (end is None or end > longest):
        raise DomainError("token.outlives", at=longest.isoformat(timespec="seconds"))


def _word_of(maker: Token | None) -> TokenOrigin | None:
    """Returns the identity that a new token inherits from the token that creates it; None if no issuer vouched for one."""
    return TokenOrigin(maker.issuer, maker.subject or "") if maker is not None and maker.issuer is not None else None


def _is_valid(token: Token) -> bool:
    return token.revoked_at is None and (token.expires_at is None or token.expires_at > now())


def _issue(
    uow: UnitOfWork, principal: Principal, owner: str, scopes: list[str], name: str, expires_at: dt.datetime | None = None,
    source: TokenOrigin | None = None,
) -> tuple[Token, str]:  # fmt: skip
    secret = PREFIX + secrets.token_urlsafe(32)
    token = Token(
        id=new_id("tok"), created_at=now(), owner=owner, name=name, scopes=scopes, hash=_hash(secret), revoked_at=None,
        expires_at=expires_at, issuer=source and source.issuer, subject=source and source.subject, made_by=principal.token[:40],
    )  # fmt: skip
    uow.add(token)
    made = TokenExchanged if source and source.rule is not None else TokenCreated
    origin = source._asdict() if source else {}
    uow.event(
        made(scopes=scopes, expires_at=expires_at.isoformat() if expires_at else None, **origin), principal, owner, token.id
    )
    return token, secret


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()

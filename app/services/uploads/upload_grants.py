"""Leave to send bytes that we sign, by the clock that all machines share."""

from typing import Any

from app.db.base import clock
from app.domain.principal import Principal
from app.domain.signing import UPLOAD_SECONDS, read_claims, sign_claims
from app.services.unit_of_work import UnitOfWork


def give(uow: UnitOfWork, principal: Principal, **claims: Any) -> tuple[str, int]:
    """Leave for a principal to send something, and until when, in seconds since 1970."""
    expires = int(clock(uow.session).timestamp()) + UPLOAD_SECONDS
    whose = {"owner": principal.owner, "scopes": sorted(principal.scopes), "token": principal.token, "exp": expires}
    return sign_claims(uow.tools.secret_keys[0], {**whose, **claims}), expires


def read(uow: UnitOfWork, text: str) -> dict[str, Any]:
    """What was signed. Raises `DomainError` (upload.signature, upload.expired)."""
    return read_claims(uow.tools.secret_keys, text, clock(uow.session).timestamp())

"""Repeats under an Idempotency-Key: the first answer, given again."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.db import idempotency as rows
from app.db.base import clock
from app.db.idempotency import IdempotentAnswer
from app.domain.errors import DomainError
from app.domain.ids import new_id
from app.domain.principal import Principal
from app.services.unit_of_work import UnitOfWork


@dataclass(frozen=True)
class Reply:
    """What was answered: status, JSON body, Location."""

    status: int
    body: Any
    location: str
    repeated: bool = False


def find(uow: UnitOfWork, principal: Principal, key: str, request: str) -> Reply | None:
    """What was answered under a key.

    Raises:
        DomainError: request.idempotency_key, when the key was used for another request.
    """
    known = rows.find(uow.session, principal.token, key)
    if known is None:
        return None
    if known.request != request:
        raise DomainError("request.idempotency_key")
    return Reply(known.status, known.body, known.location, repeated=True)


def once(uow: UnitOfWork, principal: Principal, key: str, request: str, make: Callable[[], Reply]) -> Reply:
    """Runs `make`, or returns what it answered under the same key; fact and answer are one transaction.

    Args:
        uow: the transaction.
        principal: whose key it is.
        key: chosen by the client.
        request: digest of method, path and body.
        make: the creation.

    Raises:
        DomainError: request.idempotency_key, when the key was used for another request.
    """
    rows.wait(uow.session, principal.token, key)
    known = find(uow, principal, key, request)
    if known:
        return known
    reply = make()
    row = IdempotentAnswer(
        id=new_id("ans"), created_at=clock(uow.session), token=principal.token, owner=principal.owner, key=key, request=request,
        status=reply.status, body=reply.body, location=reply.location,
    )  # fmt: skip
    uow.add(row)
    return reply

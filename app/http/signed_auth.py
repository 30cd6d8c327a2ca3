"""Who sends bytes by leave that we signed, where clients send none of our tokens: one upload, one repository, for an hour.

What was signed names the token that asked for it, so that it counts, and stands in the audit trail, as that token's.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials

from app.domain.principal import Principal
from app.http.access import RegistryDep, bearer, charge, origin_of, refusals_counted
from app.services.registry import Registry
from app.services.uploads import upload_grants


@dataclass(frozen=True)
class Sender:
    """Who sends, and what they may: the claims that were signed."""

    principal: Principal
    claims: dict[str, Any]


async def get_sender(
    request: Request, registry: RegistryDep, signature: Annotated[str, Query(alias="signed", max_length=2000)] = ""
) -> Sender:  # fmt: skip
    """Who sends to an address that we signed."""
    return await _sender(request, registry, signature)


async def get_bearer(
    request: Request, registry: RegistryDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]
) -> Sender:
    """Who sends with a token that we signed."""
    return await _sender(request, registry, credentials.credentials if credentials else "")


SenderDep = Annotated[Sender, Depends(get_sender)]
BearerDep = Annotated[Sender, Depends(get_bearer)]


async def _sender(request: Request, registry: Registry, text: str) -> Sender:
    """Returns the sender, looked up once per request: `BodyRoute` does this before it reads the body."""
    known: Sender | None = getattr(request.state, "sender", None)
    if known is None:
        known = request.state.sender = await run_in_threadpool(_believed, request, registry, text)
    return known


def _believed(request: Request, registry: Registry, text: str) -> Sender:
    with refusals_counted(request, registry), registry.read() as uow:
        claims = upload_grants.read(uow, text)
    principal = Principal(claims["owner"], frozenset(claims["scopes"]), claims["token"], *origin_of(request))
    charge(request, registry, principal)
    return Sender(principal, claims)

"""/tokens/exchange, /oidc: how somebody without a token comes by one. These routes ask for none."""

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool

from app.api.routing import api_router
from app.api.schemas.oidc import ExchangeIn, IssuerOut, OidcOut
from app.api.schemas.system import NewTokenOut, TokenOut
from app.domain.errors import DomainError
from app.domain.issuers import Identity
from app.http.access import RegistryDep, count_refusal, origin_of
from app.http.request_slots import release_current, retake_current
from app.services.access import token_exchange
from app.services.registry import Registry
from app.services.unit_of_work import UnitOfWork, run_with_retry

router = api_router(["tokens"])


@router.get("/oidc")
async def list_issuers(registry: RegistryDep) -> OidcOut:
    """The issuers of identity tokens that this registry trusts. Needs no token."""
    return OidcOut(issuers=[IssuerOut.of(issuer) for issuer in registry.identities.issuers])


@router.post("/tokens/exchange", status_code=201)
async def exchange_token(body: ExchangeIn, request: Request, response: Response, registry: RegistryDep) -> NewTokenOut:
    """Exchange an identity token (OpenID Connect) for a short-lived token of this registry. Needs no token."""
    # While it waits for the keys of the issuer, a request holds no thread and no slot: a slow issuer delays no other request.
    release_current()
    try:
        who = await registry.identities.verified(body.token)
        await retake_current()
        made = await run_in_threadpool(_exchange, registry, who, body.lifetime, *origin_of(request))
    except DomainError as refusal:
        await run_in_threadpool(count_refusal, request, registry, refusal)
        raise
    request.state.owner, request.state.token = made.owner, made.id  # for the access log
    response.headers["Cache-Control"] = "no-store"
    return made


def _exchange(registry: Registry, who: Identity, lifetime: int | None, address: str | None, request: str) -> NewTokenOut:
    def exchange(uow: UnitOfWork) -> NewTokenOut:
        row, secret = token_exchange.exchange(uow, registry.identities, who, lifetime, address, request)
        return NewTokenOut(**TokenOut.of(row).model_dump(), token=secret)

    return run_with_retry(registry.write, exchange)

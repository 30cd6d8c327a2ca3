"""Authentication by token, rate limits, and units of work on the caller's behalf."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, cast

from fastapi import Depends, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.services.access import tokens
from app.services.registry import Registry
from app.services.unit_of_work import UnitOfWork

READING = frozenset({"GET", "HEAD"})
bearer = HTTPBearer(auto_error=False, description="A token made by 'portllm token create'.")


def registry_of(request: Request) -> Registry:
    """Returns the registry that an application runs on."""
    return cast(Registry, request.app.state.registry)


# `async`, because FastAPI runs synchronous dependencies in a thread.
async def get_registry(request: Request) -> Registry:
    return registry_of(request)


RegistryDep = Annotated[Registry, Depends(get_registry)]


class Access:
    """The caller of one request, and units of work on the caller's behalf.

    The token is looked up once, in the transaction of the first read; `BodyRoute` has it looked up before it reads a body.

    Attributes:
        registry: opens further units of work, and has the tools.
    """

    def __init__(self, request: Request, secret: str) -> None:
        self._request, self._secret = request, secret
        self._principal: Principal | None = None
        self.registry = registry_of(request)

    @contextmanager
    def read(self) -> Iterator[tuple[UnitOfWork, Principal]]:
        """Opens a read-only unit of work; yields it with the caller.

        Raises:
            DomainError: token.missing, token.expired, rate.limited.
        """
        with self.registry.read() as uow:
            yield uow, self._principal or self._look_up(uow)

    @contextmanager
    def write(self) -> Iterator[tuple[UnitOfWork, Principal]]:
        """Opens a unit of work that may write, and commits it at the end; yields it with the caller. Raises like `read`."""
        principal = self.authenticate()  # in a separate transaction: an invalid token must not take the write lock
        with self.registry.write() as uow:
            yield uow, principal

    def authenticate(self) -> Principal:
        """Returns the caller. Queries the database on the first call for a request. Raises like `read`."""
        if self._principal is None:
            with self.read():
                pass
        return cast(Principal, self._principal)

    def say(self, **headers: str) -> None:
        """Sets response headers that error responses to this request also get, on surfaces that support this."""
        self._request.state.said = getattr(self._request.state, "said", {}) | headers

    def _look_up(self, uow: UnitOfWork) -> Principal:
        with refusals_counted(self._request, self.registry):
            principal = tokens.authenticate(uow, self._secret, *origin_of(self._request))
        charge(self._request, self.registry, principal)
        self._principal = principal
        return principal


async def get_access(request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]) -> Access:
    """Returns the `Access` of a request, the same object each time; refuses a request without a token."""
    known: Access | None = getattr(request.state, "access", None)
    if known is None:
        if credentials is None:
            # In a thread, because counting the refusal may query the database.
            await run_in_threadpool(registry_of(request).rates.failure, origin_of(request)[0])
            raise DomainError("token.missing")
        known = request.state.access = Access(request, credentials.credentials)
    return known


AccessDep = Annotated[Access, Depends(get_access)]


def origin_of(request: Request) -> tuple[str | None, str]:
    """Returns what the audit trail records of a request: its address and its id."""
    return request.client.host[:64] if request.client else None, request.state.request_id


@contextmanager
def refusals_counted(request: Request, registry: Registry) -> Iterator[None]:
    """Counts refused tokens in the block for the client's address, to slow down the guessing of tokens.

    Raises:
        DomainError: rate.limited in place of the refusal, if there were too many.
    """
    try:
        yield
    except DomainError as refusal:
        count_refusal(request, registry, refusal)
        raise


def count_refusal(request: Request, registry: Registry, refusal: DomainError) -> None:
    """Counts the refusal of a token for the client's address. May query the database, so it must not run on the event loop.

    Raises:
        DomainError: rate.limited, if there were too many.
    """
    if refusal.kind == "unauthenticated":
        registry.rates.failure(origin_of(request)[0])


def charge(request: Request, registry: Registry, principal: Principal) -> None:
    """Counts an authenticated request for its owner, once.

    Raises:
        DomainError: rate.limited.
    """
    if getattr(request.state, "owner", None) is None:
        request.state.owner, request.state.token = principal.owner, principal.token  # also for the access log
        if slot := getattr(request.state, "slot", None):
            slot.identify(principal.owner)
        registry.rates.request(principal.owner, writes=request.method not in READING)

"""What endpoints ask for: a unit of work, the principal, paging, preconditions, idempotency."""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, cast

from fastapi import Depends, Header, Query, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.services.access import tokens
from app.services.access.idempotency import Reply, find, once
from app.services.registry import Registry
from app.services.unit_of_work import UnitOfWork, run_with_retry

READING = frozenset({"GET", "HEAD"})
bearer = HTTPBearer(auto_error=False, description="A token made by 'portllm token create'.")


def registry_of(request: Request) -> Registry:
    """Returns the registry of the application."""
    return cast(Registry, request.app.state.registry)


# `async`, like all that only looks at the request: FastAPI sends plain functions to a thread.
async def get_registry(request: Request) -> Registry:
    return registry_of(request)


RegistryDep = Annotated[Registry, Depends(get_registry)]


def origin_of(request: Request) -> tuple[str | None, str]:
    """For the audit trail: the address that a request came from, and its id."""
    return request.client.host[:64] if request.client else None, request.state.request_id


async def get_principal(
    request: Request, registry: RegistryDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]
) -> Principal:
    """Returns the authenticated caller, looked up once per request: `BodyRoute` calls it before it reads the body.

    Every route below /api/v1 depends on it.
    """
    known: Principal | None = getattr(request.state, "principal", None)
    if known is None:
        known = request.state.principal = await run_in_threadpool(_authenticated, request, registry, credentials)
    return known


def _authenticated(request: Request, registry: Registry, credentials: HTTPAuthorizationCredentials | None) -> Principal:
    with refusals_counted(request, registry):
        if credentials is None:
            raise DomainError("token.missing")
        with registry.read() as uow:
            principal = tokens.authenticate(uow, credentials.credentials, *origin_of(request))
    charge(request, registry, principal)
    return principal


@contextmanager
def refusals_counted(request: Request, registry: Registry) -> Iterator[None]:
    """Slows down who guesses: where the block refuses a token, that is counted for the client's address.

    Raises:
        DomainError: rate.limited in place of the refusal, where there were too many.
    """
    try:
        yield
    except DomainError as refusal:
        count_refusal(request, registry, refusal)
        raise


def count_refusal(request: Request, registry: Registry, refusal: DomainError) -> None:
    """Counts a refusal for the client's address where it is one of a token; asks the database, so not on the event loop.

    Raises:
        DomainError: rate.limited, where there were too many.
    """
    if refusal.kind == "unauthenticated":
        registry.rates.failure(origin_of(request)[0])


def charge(request: Request, registry: Registry, principal: Principal) -> None:
    """Counts a request whose token is good, once.

    Raises:
        DomainError: rate.limited.
    """
    if getattr(request.state, "owner", None) is None:
        request.state.owner, request.state.token = principal.owner, principal.token  # also for the access log
        if slot := getattr(request.state, "slot", None):
            slot.identify(principal.owner)
        registry.rates.request(principal.owner, writes=request.method not in READING)


PrincipalDep = Annotated[Principal, Depends(get_principal)]


def read_unit(registry: RegistryDep) -> Iterator[UnitOfWork]:
    with registry.read() as uow:
        yield uow


def write_unit(registry: RegistryDep, _: PrincipalDep) -> Iterator[UnitOfWork]:
    """Asks for the principal first, so that strangers never take the write lock."""
    with registry.write() as uow:
        yield uow


# scope="function": FastAPI's default commits after the response was sent, and a failed commit would look like a success.
ReadUnit = Annotated[UnitOfWork, Depends(read_unit, scope="function")]
WriteUnit = Annotated[UnitOfWork, Depends(write_unit, scope="function")]


class Page:
    """Keyset paging: `after` is the last id of the page before, taken from the opaque cursor."""

    pattern = re.compile(r"[a-z0-9_]{1,60}")

    def __init__(self, registry: Registry, limit: int, cursor: str | None) -> None:
        self.limit, self._cursor = min(limit, registry.tools.limits.page), cursor

    @property
    def after(self) -> str | None:
        """Looked at by the endpoint, who knows who asks: strangers are told nothing about their cursors.

        Raises:
            DomainError: request.cursor.
        """
        return decode_cursor(self._cursor, self.pattern) if self._cursor else None

    def cut(self, rows: Any) -> tuple[list[Any], str | None]:
        """The rows of this page, and the cursor of the next if there is one."""
        items = list(rows)[: self.limit]
        return items, encode_cursor(items[-1].id) if len(rows) > self.limit else None


class JobPage(Page):
    """The same for jobs, whose ids are made of owner, kind and key."""

    pattern = re.compile(r"[a-z0-9._-]{1,64}:[a-z_]{1,40}:[A-Za-z0-9._-]{1,100}")


PageLimit = Annotated[int, Query(ge=1, description="How many at most.")]
PageCursor = Annotated[str | None, Query(max_length=300, description="next_cursor of the page before.")]


async def get_page(registry: RegistryDep, limit: PageLimit = 50, cursor: PageCursor = None) -> Page:
    return Page(registry, limit, cursor)


async def get_job_page(registry: RegistryDep, limit: PageLimit = 50, cursor: PageCursor = None) -> JobPage:
    return JobPage(registry, limit, cursor)


PageDep = Annotated[Page, Depends(get_page)]
JobPageDep = Annotated[JobPage, Depends(get_job_page)]


def encode_cursor(value: Any) -> str:
    return base64.urlsafe_b64encode(str(value).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, pattern: re.Pattern[str]) -> str:
    try:
        value = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        raise DomainError("request.cursor", cursor=cursor) from None
    if not pattern.fullmatch(value):
        raise DomainError("request.cursor", cursor=cursor)
    return value


async def get_if_match(
    if_match: Annotated[str | None, Header(max_length=65_536, description="ETag that was read before.")] = None,
) -> int | None:
    """The row version that the caller read, from If-Match."""
    if if_match in (None, "*"):
        return None
    text = str(if_match).strip().removeprefix("W/").strip('"')
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise DomainError("request.changed", what="The resource")
    return int(text)


IfMatch = Annotated[int | None, Depends(get_if_match)]


def row_etag(row: Any) -> str:
    """ETag of something that can change."""
    return f'"{row.row_version}"'


Make = Callable[[UnitOfWork], tuple[int, BaseModel, str]]


class Once:
    """Runs a creation in a transaction of its own, or repeats the answer given under the same Idempotency-Key."""

    def __init__(self, registry: Registry, principal: Principal, request: Request, idempotency_key: str | None) -> None:
        self._registry, self._principal, self._key = registry, principal, idempotency_key
        text = f"{request.method} {request.url.path} {request.state.body_sha256}"
        self._request = hashlib.sha256(text.encode()).hexdigest()

    def repeat(self) -> JSONResponse | None:
        """The answer that was given before, if any: for creations with costly preparations."""
        if self._key is None:
            return None
        with self._registry.read() as uow:
            known = find(uow, self._principal, self._key, self._request)
        return _response(known) if known else None

    def __call__(self, make: Make) -> JSONResponse:
        """`make` returns status, body and Location; its facts and the remembered answer are one transaction.

        It is run again where another request wrote the same thing first, and then answers as to any repeat.
        """

        def answer(uow: UnitOfWork) -> Reply:
            status, body, location = make(uow)
            return Reply(status, jsonable_encoder(body, by_alias=True), location)

        def answer_once(uow: UnitOfWork) -> Reply:
            if self._key is None:
                return answer(uow)
            return once(uow, self._principal, self._key, self._request, lambda: answer(uow))

        return _response(run_with_retry(self._registry.write, answer_once))


def _response(reply: Reply) -> JSONResponse:
    headers = {"Location": reply.location, **({"Idempotent-Replayed": "true"} if reply.repeated else {})}
    return JSONResponse(reply.body, reply.status, headers)


async def get_once(
    registry: RegistryDep,
    principal: PrincipalDep,
    request: Request,
    idempotency_key: Annotated[
        str | None, Header(max_length=200, description="A repeat with the same key returns the first answer.")
    ] = None,
) -> Once:
    return Once(registry, principal, request, idempotency_key)


OnceDep = Annotated[Once, Depends(get_once)]

"""Parameters that endpoints share: paging, preconditions, idempotency."""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.http.access import Access, AccessDep, RegistryDep
from app.services.access.idempotency import Reply, find, once
from app.services.registry import Registry
from app.services.unit_of_work import UnitOfWork, run_with_retry


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


Make = Callable[[UnitOfWork, Principal], tuple[int, BaseModel, str]]


class Once:
    """Runs a creation in a transaction of its own, or repeats the answer given under the same Idempotency-Key."""

    def __init__(self, access: Access, request: Request, idempotency_key: str | None) -> None:
        self._access, self._key = access, idempotency_key
        text = f"{request.method} {request.url.path} {request.state.body_sha256}"
        self._request = hashlib.sha256(text.encode()).hexdigest()

    def repeat(self) -> JSONResponse | None:
        """Returns the recorded response, if any; for creations with expensive preparations."""
        if self._key is None:
            return None
        with self._access.read() as (uow, principal):
            known = find(uow, principal, self._key, self._request)
        return _response(known) if known else None

    def __call__(self, make: Make) -> JSONResponse:
        """`make` returns status, body and Location; its facts and the remembered answer are one transaction.

        It is run again where another request wrote the same thing first, and then answers as to any repeat.
        """
        principal = self._access.authenticate()

        def answer(uow: UnitOfWork) -> Reply:
            status, body, location = make(uow, principal)
            return Reply(status, jsonable_encoder(body, by_alias=True), location)

        def answer_once(uow: UnitOfWork) -> Reply:
            if self._key is None:
                return answer(uow)
            return once(uow, principal, self._key, self._request, lambda: answer(uow))

        return _response(run_with_retry(self._access.registry.write, answer_once))


def _response(reply: Reply) -> JSONResponse:
    headers = {"Location": reply.location, **({"Idempotent-Replayed": "true"} if reply.repeated else {})}
    return JSONResponse(reply.body, reply.status, headers)


async def get_once(
    access: AccessDep,
    request: Request,
    idempotency_key: Annotated[
        str | None, Header(max_length=200, description="A repeat with the same key returns the first answer.")
    ] = None,
) -> Once:
    return Once(access, request, idempotency_key)


OnceDep = Annotated[Once, Depends(get_once)]

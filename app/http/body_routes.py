"""How routes read request bodies: buffered within a limit, or streamed if the endpoint declares it.

A body is read only after its sender was authenticated, and never as a whole without a limit. FastAPI would parse the body before
it runs any dependency, so `BodyRoute` first authenticates, then reads the body, and only then lets FastAPI handle the request.
"""

import hashlib
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from app.domain.errors import DomainError
from app.http.access import READING, bearer, get_access, registry_of
from app.http.access_rules import guards_of
from app.http.body_budget import BodyBudget, Reservation
from app.http.body_limits import require_simple
from app.http.request_streams import said_bytes
from app.http.signed_auth import get_bearer, get_sender

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Handler = Callable[[Request], Coroutine[Any, Any, Response]]

DEFAULT_BYTES = 64 * 2**10
_DECLARED = "takes_body"


@dataclass(frozen=True)
class Buffered:
    """A body that is read completely before the endpoint runs; `limit` is in bytes, None means PORTLLM_MAX_BODY_BYTES."""

    limit: int | None = DEFAULT_BYTES


@dataclass(frozen=True)
class Streamed:
    """A body that the endpoint reads in pieces, with limits of its own.

    Attributes:
        held: the most bytes of the body that the endpoint holds in memory; None: as many as the store takes in one write.
    """

    held: int | None = None


@dataclass(frozen=True)
class Ignored:
    """A body that is not read: the answer does not depend on it, and clients wait for the answer."""


Policy = Buffered | Streamed | Ignored


def buffers_body(limit: int | None) -> Callable[[Endpoint], Endpoint]:
    """Declares that an endpoint buffers a body of up to `limit` bytes instead of `DEFAULT_BYTES`; None: the largest allowed."""
    return _declares(Buffered(limit))


def streams_body(held: int | None = None) -> Callable[[Endpoint], Endpoint]:
    """Declares that an endpoint reads its body in pieces and limits its size; see `Streamed`."""
    return _declares(Streamed(held))


def ignores_body(endpoint: Endpoint) -> Endpoint:
    """Declares that an endpoint answers without reading its body; see `Ignored`."""
    return _declares(Ignored())(endpoint)


def _declares(policy: Policy) -> Callable[[Endpoint], Endpoint]:
    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _DECLARED, policy)
        return endpoint

    return mark


class BufferedRequest(Request):
    """A request with a body that was already read, within the limit of its route."""

    def __init__(self, request: Request, whole: bytes) -> None:
        super().__init__(request.scope, request.receive)
        self._whole = whole

    async def body(self) -> bytes:
        return self._whole


class BodyLimits:
    """The limits that `BodyRoute` takes from the application.

    Args:
        largest: size of the largest body that is buffered, in bytes.
        total, each: see `BodyBudget`.
    """

    def __init__(self, largest: int, total: int, each: int) -> None:
        self.largest, self.budget = largest, BodyBudget(total, each)


class BodyRoute(APIRoute):
    """A route that authenticates its caller before it reads the body, and limits the size of the body.

    A synchronous endpoint uses one worker thread; FastAPI would use a second one to validate the response.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint if iscoroutinefunction(endpoint) else _in_thread(endpoint), **options)

    @property
    def policy(self) -> Policy:
        """The policy that the endpoint declares, or the default."""
        declared: Policy = getattr(self.endpoint, _DECLARED, Buffered())
        return declared

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        guards, policy = guards_of(self.dependant), self.policy

        async def answered(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError:
                await _authenticate(request, guards)  # details of an invalid request are only for authenticated callers
                raise

        if READING.issuperset(self.methods or ()) or isinstance(policy, Ignored):
            return answered

        async def bounded(request: Request) -> Response:
            await _authenticate(request, guards)
            limits: BodyLimits = request.app.state.bodies
            # Requests without a token (only the exchange of identity tokens accepts them) share the limit of their address.
            sender = getattr(request.state, "owner", None) or f"address {request.client.host if request.client else None}"
            with limits.budget.open(sender) as reservation:
                if isinstance(policy, Streamed):
                    held = policy.held or registry_of(request).tools.blobs.write_bytes
                    reservation.grow(min(held, said_bytes(request) or held))
                    return await handle(request)
                whole = await _read_whole(request, min(policy.limit or limits.largest, limits.largest), reservation)
                request.state.body_sha256 = hashlib.sha256(whole).hexdigest()
                return await handle(BufferedRequest(request, whole))

        return bounded


def _in_thread(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(endpoint)
    async def answer(**values: Any) -> Any:
        return await run_in_threadpool(endpoint, **values)

    return answer


def buffered_body(request: Request) -> bytes:
    """Returns the body of a request, for endpoints that parse it themselves.

    Raises:
        TypeError: the endpoint declares that it streams its body, so the body was not buffered or limited.
    """
    if not isinstance(request, BufferedRequest):
        raise TypeError("The body of this request was not buffered: its endpoint declares streams_body.")
    return request._whole


def require_body_routes(routes: Iterable[Any]) -> None:
    """Checks that no route of an application would read its body without a limit.

    Raises:
        RuntimeError: a route would; the message names it.
    """
    for route in routes:
        methods = getattr(route, "methods", None) or ()
        if not READING.issuperset(methods) and not isinstance(route, BodyRoute):
            raise RuntimeError(f"{route.path} takes a body and is no BodyRoute")


async def _authenticate(request: Request, guards: set[Any]) -> None:
    """Authenticates the caller of a request as the dependencies of its route do; each looks up the caller only once per request.

    Raises:
        DomainError: the errors of those dependencies.
    """
    if get_access in guards:
        access = await get_access(request, await bearer(request))
        await run_in_threadpool(access.authenticate)
    elif get_sender in guards:
        await get_sender(request, registry_of(request), request.query_params.get("signed", ""))
    elif get_bearer in guards:
        await get_bearer(request, registry_of(request), await bearer(request))


async def _read_whole(request: Request, limit: int, reservation: Reservation) -> bytes:
    """Reads and returns a body.

    Raises:
        DomainError: request.too_large, request.too_complex, request.bodies_busy; upload.broken if the client disconnected.
    """
    if (said := said_bytes(request)) > limit:
        raise DomainError("request.too_large", what="the body", size=said, limit=limit)
    # Not a list of pieces: if they had two bytes each, the list would take twenty times as much memory.
    body = bytearray()
    try:
        async for piece in request.stream():
            if len(body) + len(piece) > limit:
                raise DomainError("request.too_large", what="the body", size=len(body) + len(piece), limit=limit)
            reservation.grow(len(body) + len(piece))
            body += piece
    except ClientDisconnect:
        raise DomainError("upload.broken") from None
    require_simple(body)
    return bytes(body)

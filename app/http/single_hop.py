"""Endpoints that are answered in one visit to a thread: who asks, the transaction, the use case and its JSON.

FastAPI sends every plain dependency, the endpoint, the check of its answer and the end of the transaction to a thread each,
one after another, and our token was looked up in a transaction of its own. For a read of a row or two those visits cost
several times the read itself.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Annotated, Any, get_args

from fastapi import Depends, Request, Response, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials
from pydantic import BaseModel, TypeAdapter

from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.http.access_rules import Rules, is_open
from app.http.deps import PrincipalDep, ReadUnit, bearer, charge, get_principal, origin_of, refusals_counted
from app.http.signed_auth import get_bearer, get_sender
from app.services.access import tokens
from app.services.registry import Registry
from app.services.unit_of_work import UnitOfWork

JSON = "application/json"


class Access:
    """A request that brought a token, which is not looked at yet."""

    def __init__(self, request: Request, secret: str) -> None:
        self._request, self._secret = request, secret
        self.registry: Registry = request.app.state.registry

    @contextmanager
    def read(self) -> Iterator[tuple[UnitOfWork, Principal]]:
        """A unit of work that only reads, and who asks, looked up in it.

        Raises:
            DomainError: token.missing, token.expired, rate.limited.
        """
        with self.registry.read() as uow:
            with refusals_counted(self._request, self.registry):
                principal = tokens.authenticate(uow, self._secret, *origin_of(self._request))
            charge(self._request, self.registry, principal)
            yield uow, principal

    def say(self, **headers: str) -> None:
        """Headers that a refusal carries too, where its surface says so."""
        self._request.state.said = getattr(self._request.state, "said", {}) | headers

    def require(self) -> None:
        """Raises `DomainError` (token.missing) unless the token is valid: for answers that come before the endpoint's."""
        with self.read():
            pass


async def get_access(request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]) -> Access:
    """What `at_once` endpoints run on; refuses those who bring no token at all."""
    if credentials is None:
        registry: Registry = request.app.state.registry
        await run_in_threadpool(registry.rates.failure, origin_of(request)[0])  # may have to ask the database
        raise DomainError("token.missing")
    request.state.access = access = Access(request, credentials.credentials)
    return access


AccessDep = Annotated[Access, Depends(get_access)]
# What tells the parameters apart that are given to an endpoint here: the `Depends` in their annotations.
UNIT, PRINCIPAL, ACCESS = (get_args(annotation)[1] for annotation in (ReadUnit, PrincipalDep, AccessDep))


def at_once(endpoint: Callable[..., BaseModel]) -> Callable[..., Any]:
    """Makes an endpoint run in one visit.

    It either only reads, and takes a `ReadUnit` and a `PrincipalDep`, which are given to it there, of one transaction; or it
    takes an `AccessDep` and opens what transactions it needs. All other parameters are FastAPI's.
    """
    signature = inspect.signature(endpoint, eval_str=True)
    markers = {name: _marker(parameter) for name, parameter in signature.parameters.items()}
    names = {marker: name for name, marker in markers.items() if marker in (UNIT, PRINCIPAL, ACCESS)}
    if set(names) not in ({UNIT, PRINCIPAL}, {ACCESS}):
        raise TypeError(f"{endpoint.__name__} takes neither a unit to read in and who asks, nor an access")
    answer_type = signature.return_annotation
    adapter: TypeAdapter[Any] = TypeAdapter(answer_type)

    def run(access: Access, values: dict[str, Any]) -> Any:
        if ACCESS in names:
            return endpoint(**values, **{names[ACCESS]: access})
        with access.read() as (uow, principal):
            return endpoint(**values, **{names[UNIT]: uow, names[PRINCIPAL]: principal})

    def visit(access: Access, values: dict[str, Any]) -> Response:
        answer = run(access, values)
        if type(answer) is not answer_type:
            answer = adapter.validate_python(answer, from_attributes=True)
        made = Response(adapter.dump_json(answer, by_alias=True), media_type=JSON)
        for value in values.values():
            if type(value) is Response:  # FastAPI's, for the endpoint to set headers on
                made.headers.raw.extend(value.headers.raw)
        return made

    @wraps(endpoint)
    async def visited(**values: Any) -> Response:
        return await run_in_threadpool(visit, values.pop("access"), values)

    kept = [parameter for name, parameter in signature.parameters.items() if name not in names.values()]
    asked = inspect.Parameter("access", inspect.Parameter.KEYWORD_ONLY, annotation=AccessDep)
    as_keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in kept]
    visited.__signature__ = signature.replace(parameters=[*as_keywords, asked])  # type: ignore[attr-defined]
    return visited


def require_guard(routes: list[Any], rules: Rules, prefix: str = "") -> None:
    """Refuses to build an application with a route that asks nobody who they are, unless its rule says that it is open.

    Raises:
        RuntimeError: names the route.
    """
    for route in routes:
        asks = bool(calls_of(route.dependant) & {get_principal, get_access, get_sender, get_bearer})
        if not asks and not is_open(route, rules, prefix):
            raise RuntimeError(f"{route.path} asks for no token")
        if asks and is_open(route, rules, prefix):
            raise RuntimeError(f"{route.path} asks for a token, and its rule says that it is open")


def calls_of(dependant: Any) -> set[Any]:
    """The functions that FastAPI calls before an endpoint."""
    below = dependant.dependencies
    return {dependency.call for dependency in below}.union(*map(calls_of, below))


def _marker(parameter: inspect.Parameter) -> Any:
    """What stands in Annotated[...] beside the type, if it is one thing."""
    extra = get_args(parameter.annotation)[1:]
    return extra[0] if len(extra) == 1 else None

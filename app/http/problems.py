"""Errors over HTTP: RFC 9457 problem details, one table from kinds to statuses."""

import errno
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.core.errors import CATALOGUE as CORE
from app.core.errors import CoreError
from app.core.findings import MEANINGS
from app.domain.errors import CATALOGUE as DOMAIN
from app.domain.errors import DomainError, Kind
from app.http.security_headers import INERT, NO_SNIFF
from app.services.read_slots import NoSlotError

STATUS: dict[Kind, int] = {
    "invalid": 422, "unauthenticated": 401, "forbidden": 403, "not_found": 404, "conflict": 409, "gone": 410,
    "precondition": 412, "too_large": 413, "range": 416, "busy": 503, "full": 507, "limited": 429,
}  # fmt: skip
# What was sent cannot be used (422), unless a file is not there (404) or is not any more what it was (409).
CORE_STATUS = {
    "output.unknown_file": 404, "output.range": 416, "checkpoint.changed": 409, "checkpoint.link": 409, "port.overflow": 409,
}  # fmt: skip
# Answered with a status of their own, not that of their kind.
OWN_STATUS = {"request.head": 431, "request.method": 405, "server.error": 500}
# Refusals of limits, by the policy that was exceeded or else the code: who operates the service wants to see their number.
COUNTED = frozenset({"rate.limited", "quota.exceeded"})
MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = "2"
FULL = (errno.ENOSPC, errno.EDQUOT)

log = logging.getLogger("portllm.api")


def install(app: FastAPI) -> None:
    """Registers the handlers."""
    app.add_exception_handler(DomainError, _domain)
    app.add_exception_handler(CoreError, _core)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(OSError, _os)
    app.add_exception_handler(Exception, _unexpected)


def answered(request: Request, error: Exception) -> JSONResponse | None:
    """The answer for an error of ours, for surfaces that add words of their own; None for one that nobody expected."""
    for kind, handler in ((DomainError, _domain), (CoreError, _core), (RequestValidationError, _validation)):
        if isinstance(error, kind):
            return handler(request, error)
    return _os(request, error) if isinstance(error, OSError) and error.errno in FULL else None


def problem(error: DomainError | CoreError, status: int, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer for an error."""
    return JSONResponse(body_of(error, status), status, headers, MEDIA_TYPE)


def body_of(error: DomainError | CoreError, status: int) -> dict[str, Any]:
    """An error as problem details."""
    return {
        "type": f"/problems/{error.code}", "title": error.title, "status": status, "detail": error.detail,
        "code": error.code, "remedy": error.remedy, "data": error.data,
    }  # fmt: skip


def status_of(error: DomainError | CoreError) -> int:
    """HTTP status of an error."""
    return STATUS[error.kind] if isinstance(error, DomainError) else CORE_STATUS.get(error.code, 422)


def document(code: str) -> dict[str, Any] | None:
    """The documentation of a code, or None."""
    if code in DOMAIN:
        entry = DOMAIN[code]
        return _documented(code, entry, OWN_STATUS.get(code, STATUS[entry.kind]))
    if found := CORE.get(code) or MEANINGS.get(code):
        return _documented(code, found, CORE_STATUS.get(code, 422) if code in CORE else None)
    return None


def _documented(code: str, entry: Any, status: int | None) -> dict[str, Any]:
    """`status` is None for a finding, which is no answer of its own."""
    return {"code": code, "title": entry.title, "detail": entry.detail, "remedy": entry.remedy, "status": status}


def codes() -> list[str]:
    """All documented codes, of errors and of findings."""
    return sorted({*DOMAIN, *CORE, *MEANINGS})


def _domain(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DomainError)  # noqa: S101
    headers = {}
    if error.kind == "unauthenticated":
        headers["WWW-Authenticate"] = "Bearer"
    if error.kind == "busy":
        headers["Retry-After"] = RETRY_SECONDS
    if error.kind == "limited":
        headers |= _rate_limit(error.data)
    if error.code in COUNTED:
        request.app.state.telemetry.refused.labels(error.data.get("policy") or error.code).inc()
    if isinstance(error, NoSlotError):
        _count_refused_read(request, error)
    if error.kind == "range":
        headers["Content-Range"] = f"bytes */{error.data['size']}"
    return problem(error, STATUS[error.kind], headers)


def _count_refused_read(request: Request, error: NoSlotError) -> None:
    """Counts a refused read. Checks of patches use slots too, but are not counted."""
    telemetry, tools = request.app.state.telemetry, request.app.state.registry.tools
    if error.slots is tools.merged_reads:
        telemetry.merged_refused.inc()
    elif error.slots is tools.far_reads:
        telemetry.far_refused.inc()


def _rate_limit(data: dict[str, Any]) -> dict[str, str]:
    """When to come back, also as draft-ietf-httpapi-ratelimit-headers says it, in the form that huggingface_hub reads."""
    name = data["policy"]
    return {
        "Retry-After": str(data["seconds"]), "RateLimit": f'"{name}";r=0;t={data["seconds"]}',
        "RateLimit-Policy": f'"fixed window";"{name}";q={data["limit"]};w={data["window"]}',
    }  # fmt: skip


def _core(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
    assert isinstance(error, CoreError)  # noqa: S101
    return problem(error, status_of(error))


def _validation(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
    assert isinstance(error, RequestValidationError)  # noqa: S101
    reasons = [f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()[:5]]
    return problem(DomainError("request.invalid", reason="; ".join(reasons) + "."), 422)


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    if error.status_code == 404:
        return problem(DomainError("request.route", path=request.url.path[:200]), 404)
    if error.status_code == 405:
        refused = DomainError("request.method", method=request.method, path=request.url.path[:200])
        return problem(refused, 405, dict(error.headers or {}))
    # FastAPI says 400 of a body that is no text, or nested too deep, and 422 of one that is no JSON: one code is one status.
    status = STATUS["invalid"] if error.status_code == 400 else error.status_code
    return problem(DomainError("request.invalid", reason=str(error.detail)[:300]), status)


def _os(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, OSError) and error.errno in FULL:
        return problem(DomainError("server.storage_full"), 507)
    return _unexpected(request, error)


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    request_id = getattr(request.state, "request_id", "unknown")
    log.error("request %s failed", request_id, exc_info=error)
    # This answer is sent from outside the middleware that gives all others their id, and what browsers are told.
    told = {"X-Request-Id": request_id} | {name.decode(): value.decode() for name, value in (NO_SNIFF, INERT)}
    return problem(DomainError("server.error", request_id=request_id), 500, told)

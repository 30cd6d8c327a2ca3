"""The REST surface, put together."""

from typing import Any

from fastapi import APIRouter, Depends, FastAPI

from app.api import problems, telemetry
from app.api.deps import get_principal
from app.api.middleware import RequestBounds
from app.api.problems import MEDIA_TYPE
from app.api.routers import audit, families, files, jobs, materialisations, patch_files, patches, ports, public, system, uploads
from app.api.rules import require_rule
from app.api.schemas.base import ProblemOut

PREFIX = "/api/v1"
PROBLEM: dict[str, Any] = {"model": ProblemOut, "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemOut"}}}}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {**PROBLEM, "description": "Refused; see code and remedy."},
    "5XX": {**PROBLEM, "description": "Not possible now: busy, storage full, or an error of ours; see code and remedy."},
}


def mount(app: FastAPI, max_body_bytes: int, metrics_token: str = "") -> None:
    """Adds routes, error handlers and bounds to an application."""
    # The principal is asked for once more here, so that a route that forgot it still refuses strangers.
    api = APIRouter(prefix=PREFIX, dependencies=[Depends(get_principal), Depends(require_rule)], responses=PROBLEMS)
    for part in (families, patches, patch_files, uploads, ports, files, materialisations, jobs, system, audit):
        api.include_router(part.router)
    app.include_router(api)
    app.include_router(public.router, responses=PROBLEMS)
    problems.install(app)
    app.add_middleware(RequestBounds, max_body_bytes=max_body_bytes)
    telemetry.install(app, metrics_token)

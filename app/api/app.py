"""The REST surface, put together."""

from fastapi import FastAPI

from app.api import documentation, pages, problems, telemetry
from app.api.middleware import RequestBounds
from app.api.routers import (
    audit,
    families,
    files,
    jobs,
    materialisations,
    oidc,
    owners,
    patch_files,
    patches,
    ports,
    public,
    system,
    uploads,
)
from app.api.routing import PREFIX, PROBLEMS
from app.api.rules import require_rules
from app.api.visits import require_guard

__all__ = ["PREFIX", "mount"]


def mount(app: FastAPI, max_body_bytes: int, metrics_token: str = "") -> None:
    """Adds routes, error handlers and bounds to an application."""
    for part in (families, patches, patch_files, uploads, ports, files, materialisations, jobs, oidc, system, audit, owners):
        require_guard(part.router.routes, PREFIX)
        require_rules(part.router.routes, PREFIX)
        app.router.routes.extend(part.router.routes)
    app.include_router(public.router, responses=PROBLEMS)
    problems.install(app)
    app.add_middleware(RequestBounds, max_body_bytes=max_body_bytes)
    telemetry.install(app, metrics_token)
    documentation.install(app, PREFIX)
    pages.install(app)

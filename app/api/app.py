"""The REST surface, put together."""

from fastapi import FastAPI

from app.api import documentation, pages
from app.api.access_rules import RULES
from app.api.routers import (
    audit,
    base_aliases,
    families,
    files,
    imports,
    jobs,
    materialisations,
    oidc,
    owners,
    patch_files,
    patches,
    ports,
    public,
    serving,
    system,
    uploads,
    upstreams,
)
from app.api.routing import PREFIX, PROBLEMS
from app.http.access_rules import require_guards, require_rules

__all__ = ["PREFIX", "mount"]

NOUNS = (
    families, base_aliases, patches, patch_files, uploads, imports, ports, serving, files, materialisations, jobs, oidc,
    system, audit, owners, upstreams,
)  # fmt: skip


def mount(app: FastAPI) -> None:
    """Adds its routes to an application."""
    for part in NOUNS:
        require_guards(part.router.routes, RULES, PREFIX)
        require_rules(part.router.routes, RULES, PREFIX)
        app.router.routes.extend(part.router.routes)
    app.include_router(public.router, responses=PROBLEMS)
    documentation.install(app, PREFIX)
    pages.install(app)

"""The Hub protocol, put together."""

from fastapi import FastAPI

from app.http.access_rules import require_guards, require_rules
from app.hub.access_rules import RULES
from app.hub.routers import accounts, commits, files, lfs, models, repos, trees
from app.hub.xet import router
from app.hub.xet.rebuilds import Rebuilds

__all__ = ["RULES", "mount"]

PARTS = (accounts, repos, commits, lfs, router, files, trees, models)


def mount(app: FastAPI) -> None:
    """Adds its routes to an application, after all others: theirs begin with a name that somebody chose."""
    app.state.rebuilds = Rebuilds()
    for part in PARTS:
        require_guards(part.router.routes, RULES)
        require_rules(part.router.routes, RULES)
        app.router.routes.extend(part.router.routes)

"""Routers of the API: their prefix, and what every route says of errors.

Their routes are put into the application as they are, not included: FastAPI matches an included router's routes once to find
the router and once more to find the route, and does so for every router around it.
"""

from typing import Any

from fastapi import APIRouter

from app.http.body_routes import BodyRoute
from app.http.problems import MEDIA_TYPE

PREFIX = "/api/v1"
# By name, not as a `model`: FastAPI would make a validator of it twice for every route, which nothing calls.
# `app.api.documentation` adds what the name stands for.
PROBLEM: dict[str, Any] = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemOut"}}}}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {**PROBLEM, "description": "Refused; see code and remedy."},
    "5XX": {**PROBLEM, "description": "Not possible now: busy, storage full, or an error of ours; see code and remedy."},
}


def api_router(tags: list[str] | None = None) -> APIRouter:
    """A router for one noun, below the prefix."""
    return APIRouter(prefix=PREFIX, route_class=BodyRoute, tags=list(tags or []), responses=PROBLEMS)

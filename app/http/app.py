"""What is around every surface of an application: the language of errors, bounds on requests, metrics."""

from collections.abc import Callable

from fastapi import FastAPI

from app.http import problems, telemetry
from app.http.body_routes import BodyLimits, require_body_routes
from app.http.middleware import RequestFrame
from app.http.telemetry import MetricsOptions
from app.services.events.feed import EventFeed


def surround(
    app: FastAPI, bodies: BodyLimits | None, metrics: MetricsOptions, feed: Callable[[], EventFeed | None] = lambda: None
) -> None:
    """Adds error handlers, request limits and metrics to an application, independently of the APIs that it serves.

    Args:
        app: the application, with all routes already added.
        bodies: the limits of request bodies; None if no route takes a body.
        metrics, feed: see `telemetry.install`.

    Raises:
        RuntimeError: a route would read its body without a limit.
    """
    require_body_routes(app.routes)
    app.state.bodies = bodies
    problems.install(app)
    app.add_middleware(RequestFrame)
    telemetry.install(app, metrics, feed)

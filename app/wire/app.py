"""What is around every surface of an application: the language of errors, bounds on requests, metrics."""

from fastapi import FastAPI

from app.wire import problems, telemetry
from app.wire.middleware import RequestBounds


def surround(app: FastAPI, max_body_bytes: int, metrics_token: str = "") -> None:
    """Adds error handlers, bounds and metrics to an application, whichever surfaces it has."""
    problems.install(app)
    app.add_middleware(RequestBounds, max_body_bytes=max_body_bytes)
    telemetry.install(app, metrics_token)

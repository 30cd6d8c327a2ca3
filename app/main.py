"""The service: `create_app(settings)`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

from app.api import app as api
from app.api.event_streams import EventStreams, message
from app.core import arithmetic
from app.hub import app as hub
from app.jobs.presence import process_id
from app.runtime import Runtime
from app.services.event_feed import EventFeed
from app.settings import Settings
from app.wire.app import surround
from app.wire.body_routes import BodyLimits

DESCRIPTION = """\
Keeps LoRA patches and carries them to new releases of their base model, without training and without data.

Register a **release**, publish a **patch**, make a **port**, read the **merged model**. Every error is an
`application/problem+json` with a `code` (documented under `/problems/{code}`) and a `remedy`.
"""


class Replica(Runtime):
    """One of several processes that answer for one service. The process that started them has the data directory's lock,
    keeps the house, runs the jobs and made the first token; here requests are answered, and nothing else.
    """

    _is_open = False

    def start(self) -> None:
        """Opens database, bytes and queue; once."""
        if not self._is_open:
            self._is_open = True
            self._open(self.settings.data, arithmetic.load)
            self.announce_keys("service", process_id())
            self._warm()


def create_app(settings: Settings, counts: Path | None = None) -> FastAPI:
    """Builds the application; nothing is opened before it starts.

    Args:
        settings: what the installation chose.
        counts: of a `Replica`, one of several processes of a service: the directory in which all of them count for metrics.
    """
    runtime = Replica(settings) if counts else Runtime(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(runtime.start)
        try:
            yield
        finally:
            await run_in_threadpool(runtime.stop)

    app = FastAPI(
        title="PortLLM Registry", version="1", description=DESCRIPTION, lifespan=lifespan, redirect_slashes=False,
        docs_url=None, redoc_url=None,  # ours are in app.api.pages
    )  # fmt: skip
    app.state.backend = runtime
    app.state.event_streams = EventStreams(EventFeed(runtime.read, runtime.draining, settings.stream_limits, message))
    api.mount(app)
    hub.mount(app)
    limits = BodyLimits(settings.max_body_bytes, settings.body_bytes, settings.body_bytes_of_one)
    surround(app, limits, settings.metrics_token.get_secret_value(), counts)
    return app

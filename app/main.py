"""The service: `create_app(settings)`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.api import app as api
from app.api.event_streams import EventStreams, message
from app.core import arithmetic
from app.domain.errors import DomainError
from app.http import problems
from app.http.app import surround
from app.http.body_routes import BodyLimits
from app.http.long_work import LongWork
from app.http.request_slots import RequestSlots, Shares
from app.http.telemetry import MetricsOptions
from app.hub import app as hub
from app.hub.errors import in_hub_words
from app.jobs.heartbeat import process_id
from app.runtime import Runtime
from app.services.events.feed import EventFeed
from app.settings import Settings

DESCRIPTION = """\
Keeps LoRA patches and carries them to new releases of their base model, without training and without data.

Register a **release**, publish a **patch**, make a **port**, read the **merged model**. Every error is an
`application/problem+json` with a `code` (documented under `/problems/{code}`) and a `remedy`.
"""


class Replica(Runtime):
    """One of several processes of one service. The parent process holds the lock of the data directory, runs maintenance and
    jobs, and created the first token; a replica only answers requests.
    """

    _is_open = False

    def start(self) -> None:
        """Opens database, bytes and queue; once."""
        if not self._is_open:
            self._is_open = True
            self._open(self.settings.data, arithmetic.load)
            self.announce_keys("service", process_id())
            self.watch_purges()
            self._warm()


def _refusal(request: Request, error: DomainError) -> Response:
    """Answers a request that is refused before routing, in the error format of its API (REST or Hub)."""
    answer = problems.problem(error, problems.status_of(error), {"Retry-After": problems.RETRY_SECONDS})
    return answer if request.url.path.startswith(f"{api.PREFIX}/") else in_hub_words(request, answer)


def create_app(settings: Settings, counts: Path | None = None) -> FastAPI:
    """Builds the application; nothing is opened before it starts.

    Args:
        settings: what the installation chose.
        counts: for a `Replica` (one of several processes of a service), the directory in which all processes count metrics.
    """
    runtime = Replica(settings) if counts else Runtime(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = settings.request_threads
        await run_in_threadpool(runtime.start)
        try:
            yield
        finally:
            await run_in_threadpool(runtime.stop)

    app = FastAPI(
        title="PortLLM Registry", version="1", description=DESCRIPTION, lifespan=lifespan, redirect_slashes=False,
        docs_url=None, redoc_url=None,  # ours are in app.api.pages
    )  # fmt: skip
    app.state.registry = runtime
    feed = EventFeed(runtime.read, runtime.draining, settings.stream_limits, message)
    app.state.event_streams = EventStreams(feed)
    api.mount(app)
    hub.mount(app)
    app.state.long_work = LongWork(settings.publishes, settings.publishes_of_one)
    app.add_middleware(RequestSlots, shares=Shares(settings.requests_of_one), answer=_refusal)
    limits = BodyLimits(settings.max_body_bytes, settings.body_bytes, settings.body_bytes_of_one)
    metrics = MetricsOptions(settings.metrics_token.get_secret_value(), counts, settings.metrics_owners, settings.data)
    surround(app, limits, metrics, lambda: feed)
    return app

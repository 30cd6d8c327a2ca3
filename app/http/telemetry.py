"""What an application tells of itself: metrics in Prometheus' form, and one line in the log for every request."""

import hmac
import ipaddress
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.domain.errors import DomainError
from app.http.owner_counters import OwnerCounters
from app.http.prometheus_collectors import State
from app.services.events.feed import EventFeed
from app.services.registry import Registry
from app.text import visible

UNMATCHED = "(none)"
MAX_RESOURCE = 200  # characters in a log line
# A client may send any word as the method; this limits the number of labels.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "(other)"
API = "/api/v1"
PROXIED = frozenset({"forwarded", "x-forwarded-for", "x-real-ip", "via"})

router = APIRouter()
access_log = logging.getLogger("portllm.access")


@dataclass(frozen=True)
class MetricsOptions:
    """Options of metrics.

    Attributes:
        token: the token that a client must send; if it is empty, clients on this machine need none and all others are refused.
        counts: the directory that the processes of one service share for counters; None if there is only one process.
        owners: how many owners have labels of their own.
        data: the data directory, for metrics of its file system; None for no such metrics.
    """

    token: str = ""
    counts: Path | None = None
    owners: int = 50
    data: Path | None = None


class Telemetry:
    """Counters of one application, in a registry of its own: several applications can live in one process.

    Args:
        get_registry: returns the registry, whose state is collected at each scrape.
        options: see `MetricsOptions`.
        feed: returns the event feed of this process, None if it has none.
    """

    def __init__(
        self, get_registry: Callable[[], Registry], options: MetricsOptions, feed: Callable[[], EventFeed | None] = lambda: None
    ) -> None:
        self.token, self._counts = options.token, options.counts
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they are a second, unused series for every counter
        self.collectors = CollectorRegistry()
        self.requests = Counter(
            "portllm_requests", "Requests by route and status.", ["method", "route", "status"], registry=self.collectors
        )
        self.seconds = Histogram(
            "portllm_request_seconds", "Duration of requests.", ["method", "route"], registry=self.collectors
        )
        self.sent = Counter("portllm_sent_bytes", "Bytes of answers by route.", ["route"], registry=self.collectors)
        self.received = Counter(
            "portllm_received_bytes", "Bytes of request bodies by route.", ["route"], registry=self.collectors
        )
        self.merged_bytes = Counter(
            "portllm_merged_bytes", "Computed bytes of merged models that were read.", registry=self.collectors
        )
        self.merged_reads = Gauge(
            "portllm_merged_reads", "Reads of merged models under way.", registry=self.collectors, multiprocess_mode="livesum"
        )
        self.merged_refused = Counter(
            "portllm_merged_reads_refused",
            "Reads of merged models refused because all places were taken.",
            registry=self.collectors,
        )
        self.far_refused = Counter(
            "portllm_far_reads_refused",
            "Reads of large files in the object store refused because all places were taken.",
            registry=self.collectors,
        )
        self.refused = Counter(
            "portllm_refused", "Requests refused by a rate limit (its name) or a quota.", ["reason"], registry=self.collectors
        )
        for reason in ("requests", "writes", "failures", "quota.exceeded"):
            self.refused.labels(reason)
        self.owners = OwnerCounters(self.collectors, options.owners)
        self._by_labels: dict[tuple[str, str, int | str], tuple[Counter, Histogram, Counter, Counter]] = {}
        # What is looked up when somebody asks, by the process that is asked: nothing that several would count.
        self._asked = CollectorRegistry()
        self._asked.register(State(get_registry, options.owners, options.data, feed))
        ProcessCollector(registry=self._asked)

    def of(self, method: str, route: str, status: int | str) -> tuple[Counter, Histogram, Counter, Counter]:
        """Requests, seconds, sent and received bytes of a route: finding these by their labels costs as much as counting."""
        key = (method if method in METHODS else OTHER, route, status)
        found = self._by_labels.get(key)
        if found is None:
            requests, seconds = self.requests.labels(*key), self.seconds.labels(*key[:2])
            found = self._by_labels[key] = (requests, seconds, self.sent.labels(route), self.received.labels(route))
        return found

    def exposition(self) -> bytes:
        """Everything, in Prometheus' form; of all processes of this service, where it has several."""
        collectors = self.collectors
        if self._counts:
            collectors = CollectorRegistry()
            MultiProcessCollector(collectors, str(self._counts))  # type: ignore[no-untyped-call]
        return generate_latest(collectors) + generate_latest(self._asked)


class Observed:
    """Around every request, pure ASGI: counts it and writes its line when its last byte is sent, or its client is gone."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app, self._telemetry = app, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, sent, received = time.perf_counter(), 0, 0, 0

        async def counting_send(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                sent += len(message.get("body", b""))
            await send(message)

        async def counting_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        try:
            await self._app(scope, counting_receive, counting_send)
        finally:
            self._note(scope, status, sent, received, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, sent: int, received: int, seconds: float) -> None:
        # The template, never the path: paths are names of customers, and without bound.
        route = getattr(scope.get("route"), "path", UNMATCHED)
        if scope["path"].startswith(API) and route != UNMATCHED and not route.startswith(API):
            route = API + route  # an included router knows its own part only
        method = scope["method"]
        requests, durations, sent_bytes, received_bytes = self._telemetry.of(method, route, status or "aborted")
        requests.inc()
        durations.observe(seconds)
        sent_bytes.inc(sent)
        if received:
            received_bytes.inc(received)
        self._telemetry.owners.count(scope.get("state", {}).get("owner"), sent, received)
        self._write_line(scope, method, route, status, round(1000 * seconds, 1), sent, received)

    def _write_line(
        self, scope: Scope, method: str, route: str, status: int, milliseconds: float, sent: int, received: int
    ) -> None:
        state, client, resource = scope.get("state", {}), scope.get("client"), _resource(scope)
        address, owner, token = client[0] if client else None, state.get("owner"), state.get("token")
        shown = f" {resource}" if resource else ""
        access_log.info(
            "%s %s %s%s client=%s owner=%s token=%s", method, route, status or "aborted", shown, address, owner, token,
            extra={
                "method": method, "route": route, "resource": resource, "status": status, "milliseconds": milliseconds,
                "sent": sent,
                "received": received, "request_id": state.get("request_id"), "client": address, "owner": owner, "token": token,
            },
        )  # fmt: skip


def _resource(scope: Scope) -> str:
    """Returns the resource of a request for the log: the path parameters, or the path if no route matched.

    Control characters are escaped and long values are cut. The query is left out, because it may contain a signature.
    """
    values = scope.get("path_params")
    text = " ".join(f"{name}={value}" for name, value in values.items()) if values else ""
    if not text and "route" not in scope:
        text = str(scope["path"])
    text = visible(text)
    return text if len(text) <= MAX_RESOURCE else f"{text[:MAX_RESOURCE]}..."


def get_telemetry(request: Request) -> Telemetry:
    telemetry: Telemetry = request.app.state.telemetry
    return telemetry


def require_watcher(request: Request, telemetry: Annotated[Telemetry, Depends(get_telemetry)]) -> None:
    """Admits clients that send the metrics token; if none is set, clients on this machine.

    Raises:
        DomainError: token.missing.
    """
    given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
    is_let_in = hmac.compare_digest(given, telemetry.token.encode()) if telemetry.token else _is_local(request)
    if not is_let_in:
        raise DomainError("token.missing")


@router.get("/metrics", include_in_schema=False, dependencies=[Depends(require_watcher)])
def metrics(telemetry: Annotated[Telemetry, Depends(get_telemetry)]) -> Response:
    """Metrics."""
    return Response(telemetry.exposition(), media_type=CONTENT_TYPE_LATEST)


def install(app: FastAPI, options: MetricsOptions, feed: Callable[[], EventFeed | None] = lambda: None) -> None:
    """Adds the route, and the middleware around everything else."""
    app.state.telemetry = Telemetry(lambda: app.state.registry, options, feed)
    app.include_router(router)
    app.add_middleware(Observed, telemetry=app.state.telemetry)


def _is_local(request: Request) -> bool:
    """Whether the client is on this machine; one that a proxy speaks for may be anywhere."""
    if not PROXIED.isdisjoint(request.headers):
        return False
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False

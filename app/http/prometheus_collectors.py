"""What metrics show that nobody counted along the way: asked for when somebody looks, with a limit, and remembered."""

import logging
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from app.blobs import error_counts
from app.services.background import in_thread
from app.services.events.feed import EventFeed
from app.services.operations import metrics
from app.services.operations.metrics import Stock, Work
from app.services.operations.readiness import LIMIT_SECONDS
from app.services.registry import Registry
from app.single_flight import OverdueError, SingleFlight

WORK_SECONDS = 5.0
STOCK_SECONDS = 30.0
Value = TypeVar("Value")

log = logging.getLogger("portllm.figures")


class State(Collector):
    """Metrics of readiness, jobs, workers, ports, releases, versions, bytes, events, disks and errors of the store.

    Metrics from the database are omitted while it is unreachable; `portllm_up` then reports this.

    Args:
        get_registry: returns the registry whose state is collected.
        owners: how many owners have labels of their own.
        data: the data directory, for metrics of its file system; None for no such metrics.
        feed: returns the event feed of this process, None if it has none.
    """

    def __init__(
        self, get_registry: Callable[[], Registry], owners: int, data: Path | None, feed: Callable[[], EventFeed | None]
    ) -> None:
        self._get_registry, self._owners, self._data, self._feed = get_registry, owners, data, feed
        self._work = SingleFlight[None, Work](1, WORK_SECONDS, in_thread)
        self._stock = SingleFlight[None, Stock](1, STOCK_SECONDS, in_thread)

    def collect(self) -> Iterable[Metric]:
        parts = self._get_registry().readiness.ask().result(2 * LIMIT_SECONDS)
        up = GaugeMetricFamily("portllm_up", "Whether a part that this process stands on answers.", labels=["part"])
        for name, part in parts.items():
            up.add_metric([name], float(part.ok))
        yield up
        if parts["database"].ok:
            if (work := value_in_time(self._work, self._ask_work)) is not None:
                yield from _work(work)
            if (stock := value_in_time(self._stock, self._ask_stock)) is not None:
                yield from _stock(stock)
                yield from _streams(self._feed(), stock.cursor)
        if self._data:
            yield from _disk(self._data)
        errors = CounterMetricFamily("portllm_blob_errors", "Failures of the store of bytes.", labels=["code"])
        for code, count in error_counts.counts().items():
            errors.add_metric([code], count)
        yield errors
        yield from _doing(self._get_registry())

    def describe(self) -> Iterable[Metric]:
        """Nothing: the database need not be there when the application is built."""
        return ()

    def _ask_work(self) -> Work:
        registry = self._get_registry()
        with registry.read() as uow:
            return metrics.work(uow, registry.worker_ttl)

    def _ask_stock(self) -> Stock:
        with self._get_registry().read() as uow:
            return metrics.stock(uow, self._owners)


def value_in_time(flight: SingleFlight[None, Value], ask: Callable[[], Value], limit: float = LIMIT_SECONDS) -> Value | None:
    """Returns the value of a look-up that may hang or fail; None if it fails or exceeds the limit, in seconds."""
    try:
        return flight.get(None, ask, limit)
    except OverdueError:
        return None
    except Exception as error:
        log.warning("metrics are left out because their values could not be looked up", exc_info=error)
        return None


def _work(work: Work) -> Iterable[Metric]:
    jobs = GaugeMetricFamily(
        "portllm_jobs", "Jobs that wait and run, and those of the last day that ended.", labels=["kind", "state", "class"]
    )
    for labels, count in work.jobs.items():
        jobs.add_metric(labels, count)
    yield jobs
    yield _by("portllm_queue_age_seconds", "How long the oldest waiting job waits.", "class", work.oldest)
    yield _by("portllm_jobs_unserved", "Jobs that wait for a class without a live worker.", "class", work.unserved)
    yield _by("portllm_workers_live", "Workers that gave a sign of life lately.", "class", work.workers)


def _stock(stock: Stock) -> Iterable[Metric]:
    yield _by("portllm_ports", "Ports by state.", "state", stock.ports)
    yield _by("portllm_releases", "Releases by state.", "state", stock.releases)
    yield GaugeMetricFamily("portllm_releases_damaged", "Releases with a file whose bytes changed.", value=stock.damaged)
    yield _by("portllm_versions", "Versions of patches by state.", "state", stock.versions)
    yield _by("portllm_version_bytes", "Bytes of versions of patches by state.", "state", stock.version_bytes)
    yield GaugeMetricFamily("portllm_release_bytes", "Bytes of releases that are copied here.", value=stock.release_bytes)
    yield _by("portllm_owner_stored_bytes", "Bytes in versions and drafts of the owners with most.", "owner", stock.owner_bytes)
    yield _by("portllm_owner_ports", "Ports of the owners with most.", "owner", stock.owner_ports)
    deleted = CounterMetricFamily("portllm_retention_deleted", "Rows that were deleted because of their age.", labels=["what"])
    for what, count in stock.deleted.items():
        deleted.add_metric([what], count)
    yield deleted
    yield GaugeMetricFamily("portllm_event_cursor", "The id of the last event.", value=stock.cursor)
    yield GaugeMetricFamily("portllm_event_age_seconds", "How long ago the last event happened.", value=stock.event_age)
    yield GaugeMetricFamily("portllm_database_bytes", "Size of the database.", value=stock.database_bytes)


def _streams(feed: EventFeed | None, newest: int) -> Iterable[Metric]:
    if feed is None:
        return
    count, lag = feed.status(newest)
    yield GaugeMetricFamily("portllm_event_streams", "Live streams of events of this process.", value=count)
    yield GaugeMetricFamily("portllm_event_lag", "Events that the stream furthest behind was not given yet.", value=lag)


def _disk(data: Path) -> Iterable[Metric]:
    try:
        size, _, free = shutil.disk_usage(data)
    except OSError:  # `portllm_up` reports the failure
        return
    yield GaugeMetricFamily("portllm_disk_bytes", "Size of the file system of the data directory.", value=size)
    yield GaugeMetricFamily("portllm_disk_free_bytes", "What is free on the file system of the data directory.", value=free)


def _doing(registry: Registry) -> Iterable[Metric]:
    """What this process does itself, where it runs jobs: which job is never a label, there is no end of them."""
    running = registry.doing()
    if running is None:
        return
    kinds = sorted({job.kind for job in running})
    yield _by("portllm_worker_jobs", "Jobs that run here.", "kind", {k: sum(j.kind == k for j in running) for k in kinds})
    for name, text, key in (
        ("portllm_worker_job_done_bytes", "How far the jobs that run here are.", "done"),
        ("portllm_worker_job_total_bytes", "How much the jobs that run here have to do.", "total"),
        ("portllm_worker_job_bytes_per_second", "How fast the jobs that run here are.", "rate"),
    ):
        yield _by(name, text, "kind", {k: sum(j.progress.get(key) or 0 for j in running if j.kind == k) for k in kinds})
    worker_info = registry.worker_info
    if worker_info is not None:
        device = {"class": worker_info.class_name, "device": worker_info.device, "version": worker_info.version}
        yield InfoMetricFamily("portllm_worker", "What this worker is.", value=device)
        yield GaugeMetricFamily("portllm_worker_memory_bytes", "Memory of its device.", value=worker_info.memory_bytes)


def _by(name: str, text: str, label: str, values: dict[str, int] | dict[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family

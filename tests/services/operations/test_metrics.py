"""Figures for operators: what they count, that their labels are few, and that nothing is read row by row for them."""

import dataclasses
import re
import threading
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import event

from app.blobs.s3.client import translated
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.http.owner_counters import OwnerCounters
from app.http.prometheus_collectors import value_in_time
from app.http.telemetry import MetricsOptions, Telemetry
from app.jobs.queue import DbosQueue
from app.services.background import in_thread
from app.services.draining import Draining
from app.services.events.feed import EventFeed, StreamLimits
from app.services.operations import metrics
from app.single_flight import SingleFlight
from tests.support.fixtures import Models, on_sqlite
from tests.support.metrics import figures, samples
from tests.support.registry import Service, refused


@pytest.fixture(scope="module")
def service(registries: Callable[..., Service], models: Models) -> Iterator[Service]:
    """Two releases, a ready and a refused port; it enqueues for DBOS, of which nothing runs."""
    with registries(merged_reads=2).running() as service:
        service.admin.family("llama")
        for name, directory in (("v1", models.v1), ("alien", models.alien)):
            service.release("llama", name, directory)
        service.admin.publish(service.admin.patch("acme", "tone"), models.patch)
        assert [service.admin.port("acme/tone", release)["state"] for release in ("v1", "alien")] == ["ready", "refused"]
        service.execute(f"DELETE FROM {service.jobs_table}")
        queue = DbosQueue(service.settings.database_url, service.settings.worker_ttl_seconds)
        service.runtime.tools = dataclasses.replace(service.runtime.tools, jobs=queue)
        yield service
        queue.close()


def test_what_there_is(service: Service) -> None:
    """Ports and releases by every state that there is, the end of the list of events, parts that answer, the process."""
    told = figures(service)
    assert {state: told[f'portllm_ports{{state="{state}"}}'] for state in ("ready", "refused", "held", "retired")} == {
        "ready": 1, "refused": 1, "held": 0, "retired": 0,
    }  # fmt: skip
    assert (told['portllm_releases{state="ready"}'], told['portllm_releases{state="rejected"}']) == (2, 0)
    assert told["portllm_event_cursor"] == service.rows("SELECT max(id) FROM events")[0][0]
    assert {told[f'portllm_up{{part="{part}"}}'] for part in ("database", "writes", "blobs", "jobs")} == {1}
    assert told["process_open_fds"] > 0
    named = [name for name in told if "acme" in name or "llama" in name or "v1" in name]
    assert all(name.startswith("portllm_owner_") for name in named), "no names of customers elsewhere"


def test_stored_bytes_versions_and_owners_are_shown(service: Service) -> None:
    """As the database has them; owners beyond the bound are one series."""
    told = figures(service)
    (bytes_of_version,) = service.rows("SELECT total_bytes FROM patch_versions WHERE state = 'published'")[0]
    assert {state: told[f'portllm_versions{{state="{state}"}}'] for state in ("published", "draft")} == {
        "published": 1,
        "draft": 0,
    }
    assert told['portllm_version_bytes{state="published"}'] == bytes_of_version
    assert told["portllm_release_bytes"] == 0, "they are read where they lie"
    assert told['portllm_owner_stored_bytes{owner="acme"}'] == bytes_of_version
    assert (told['portllm_owner_ports{owner="acme"}'], told['portllm_owner_ports{owner="(other)"}']) == (2, 0)
    assert told["portllm_database_bytes"] > 0
    told = figures(service, MetricsOptions(data=service.data))
    assert told["portllm_disk_bytes"] >= told["portllm_disk_free_bytes"] > 0
    bounded = figures(service, MetricsOptions(owners=0))
    assert bounded['portllm_owner_stored_bytes{owner="(other)"}'] == bytes_of_version
    assert not [name for name in bounded if "acme" in name]


def test_age_of_the_last_event_and_lag_of_streams_are_shown(service: Service) -> None:
    """The stream furthest behind counts, from its cursor on."""
    feed = EventFeed(service.runtime.read, Draining(), StreamLimits(2, 2, 60), lambda _event, _is_admin: "")
    telemetry = Telemetry(lambda: service.runtime, MetricsOptions(), lambda: feed)
    last = service.rows("SELECT max(id) FROM events")[0][0]
    assert samples(telemetry)["portllm_event_lag"] == 0
    assert 0 <= samples(telemetry)["portllm_event_age_seconds"] < 3600
    stream = feed.subscribe(Principal("acme", frozenset({"read"}), "tok"), last - 3, lambda: None)
    told = samples(telemetry)
    feed.close(stream)
    assert (told["portllm_event_streams"], told["portllm_event_lag"]) == (1, 3)


def test_no_series_says_when_a_counter_was_made(service: Service) -> None:
    """Prometheus does not need them, and each would double a counter's series."""
    service.admin.get("/whoami")
    text = service.app.state.telemetry.exposition().decode()
    assert "portllm_requests_total" in text
    assert "_created" not in text


def test_requests_and_bytes_are_counted_by_owner_up_to_a_bound() -> None:
    """Those who come first have series of their own, all others share one; so do requests without a token."""
    registry = CollectorRegistry()
    counters = OwnerCounters(registry, limit=2)
    for owner in ("a", "b", "c", "d", "a", None):
        counters.count(owner, sent=10, received=1)
    counted = {
        owner: registry.get_sample_value("portllm_owner_requests_total", {"owner": owner})
        for owner in ("a", "b", "c", "d", "(other)", "(none)")
    }
    assert counted == {"a": 2, "b": 1, "c": None, "d": None, "(other)": 2, "(none)": 1}
    assert registry.get_sample_value("portllm_owner_sent_bytes_total", {"owner": "(other)"}) == 20
    assert registry.get_sample_value("portllm_owner_received_bytes_total", {"owner": "a"}) == 2


def test_requests_with_unknown_methods_are_counted_under_one_label(service: Service) -> None:
    """A client can send any word as its method: the labels stay few."""
    for number in range(20):
        answer = service.admin(f"WORD{number}", "/families")
        assert answer.status_code == 405, answer.text
    text = service.app.state.telemetry.exposition().decode()
    assert "WORD" not in text
    assert 'method="(other)"' in text


def test_jobs_and_workers(service: Service, models: Models) -> None:
    """By kind, state and class; how long the oldest waits; those that ended only for a day."""

    def jobs() -> dict[tuple[str, str], float]:
        told = figures(service)
        return {
            (kind, state): told[f'portllm_jobs{{class="cpu",kind="{kind}",state="{state}"}}']
            for kind in ("ingest", "digest") for state in metrics.STATES
        }  # fmt: skip

    assert set(jobs().values()) == {0}
    job = service.register("llama", "waiting", models.v1).json()["job"]
    minute_ago = f"UPDATE {service.jobs_table} SET created_at = created_at - 60000 WHERE workflow_uuid = :job"
    service.execute(minute_ago, job=job)
    assert {key: count for key, count in jobs().items() if count} == {("ingest", "queued"): 1}
    assert 60 <= figures(service)['portllm_queue_age_seconds{class="cpu"}'] < 600
    for status, state in (("PENDING", "running"), ("SUCCESS", "done"), ("ERROR", "failed"), ("CANCELLED", "cancelled")):
        service.execute(f"UPDATE {service.jobs_table} SET status = :status WHERE workflow_uuid = :job", status=status, job=job)
        assert {key: count for key, count in jobs().items() if count} == {("ingest", state): 1}
    assert figures(service)['portllm_queue_age_seconds{class="cpu"}'] == 0
    service.execute(f"UPDATE {service.jobs_table} SET created_at = 1 WHERE workflow_uuid = :job", job=job)
    assert set(jobs().values()) == {0}
    assert figures(service)['portllm_workers_live{class="cpu"}'] == 0


def test_merged_reads(service: Service) -> None:
    """Bytes that were computed, not those that were only carried; reads that were refused; none is under way after."""
    collectors = service.app.state.telemetry.collectors
    port = next(p["id"] for p in service.admin.get("/ports").json()["items"] if p["state"] == "ready")
    files = service.admin.get(f"/ports/{port}/files").json()["files"]
    computed = next(file for file in files if file["computed"])
    for file in (computed, next(file for file in files if not file["computed"])):
        assert len(service.admin.get(f"/ports/{port}/files/{file['path']}").content) == file["size"]
    assert collectors.get_sample_value("portllm_merged_bytes_total") == computed["size"]
    assert collectors.get_sample_value("portllm_merged_reads") == 0
    with service.runtime.merged_reads.hold("acme"), service.runtime.merged_reads.hold("other"):
        refused(service.admin.get(f"/ports/{port}/files/{computed['path']}"), 503, "server.busy")
    assert collectors.get_sample_value("portllm_merged_reads_refused_total") == 1


def test_failures_of_the_store(service: Service) -> None:
    """By the code that was told."""
    from botocore.exceptions import ReadTimeoutError

    name = 'portllm_blob_errors_total{code="storage.unavailable"}'
    before = figures(service)[name]
    with pytest.raises(DomainError), translated():
        raise ReadTimeoutError(endpoint_url="x")
    assert figures(service)[name] == before + 1


@on_sqlite  # PostgreSQL reads small tables whole, whatever indexes there are
def test_nothing_is_read_row_by_row(service: Service) -> None:
    """Every question is answered by an index: by the index alone, or by a search in one."""
    asked: list[tuple[str, object]] = []
    with service.runtime.read() as uow:
        engine = uow.session.get_bind()
        listen = (engine, "before_cursor_execute", lambda _c, _cur, text, values, _ctx, _many: asked.append((text, values)))
        event.listen(*listen)
        metrics.work(uow, 15)
        metrics.stock(uow, 50)
        event.remove(*listen)
        selects = [(text, values) for text, values in asked if text.startswith("SELECT") and "FROM" in text]
        assert len(selects) >= 8
        for statement, values in selects:
            plan = uow.session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
            steps = [row[-1] for row in plan]
            scans = [
                step
                for step in steps
                if step.startswith("SCAN") and not re.search("COVERING INDEX|_in_flight|_delayed|_refused|workers", step)
            ]
            assert scans == [], statement


def test_figures_that_fail_or_hang_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    let_go = threading.Event()
    assert value_in_time(SingleFlight(start=in_thread), lambda: 1) == 1
    assert value_in_time(SingleFlight(start=in_thread), let_go.wait, limit=0.01) is None
    assert "left out" not in caplog.text
    assert value_in_time(SingleFlight(start=in_thread), lambda: 1 / 0) is None
    assert "left out" in caplog.text
    let_go.set()

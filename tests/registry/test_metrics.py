"""Figures for operators: what they count, that their labels are few, and that nothing is read row by row for them."""

import dataclasses
import re
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event

from app.blobs.s3_client import translated
from app.domain.errors import DomainError
from app.jobs.queue import DbosQueue
from app.services import metrics
from app.services.threads import Remembered
from app.wire.telemetry import Telemetry
from tests.registry.conftest import Models, on_sqlite
from tests.registry.service import Service, refused


def figures(service: Service) -> dict[str, float]:
    """What a look that remembers nothing shows, by name and labels."""
    text = Telemetry(lambda: service.runtime, "").exposition().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


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
    assert not [name for name in told if "acme" in name or "llama" in name or "v1" in name], "no names of customers"


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
    registry = service.app.state.telemetry.registry
    port = next(p["id"] for p in service.admin.get("/ports").json()["items"] if p["state"] == "ready")
    files = service.admin.get(f"/ports/{port}/files").json()["files"]
    computed = next(file for file in files if file["computed"])
    for file in (computed, next(file for file in files if not file["computed"])):
        assert len(service.admin.get(f"/ports/{port}/files/{file['path']}").content) == file["size"]
    assert registry.get_sample_value("portllm_merged_bytes_total") == computed["size"]
    assert registry.get_sample_value("portllm_merged_reads") == 0
    with service.runtime.merged_reads.hold("acme"), service.runtime.merged_reads.hold("other"):
        refused(service.admin.get(f"/ports/{port}/files/{computed['path']}"), 503, "server.busy")
    assert registry.get_sample_value("portllm_merged_reads_refused_total") == 1


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
        metrics.stock(uow)
        event.remove(*listen)
        selects = [(text, values) for text, values in asked if text.startswith("SELECT") and "FROM" in text]
        assert len(selects) >= 8
        for statement, values in selects:
            plan = uow.session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
            steps = [row[-1] for row in plan]
            scans = [
                step
                for step in steps
                if step.startswith("SCAN") and not re.search("COVERING INDEX|_in_flight|_delayed|workers", step)
            ]
            assert scans == [], statement


def test_a_value_is_remembered_and_not_waited_for_long() -> None:
    """Asked once while it is fresh; nothing where it comes late or not at all; and asked again after that."""
    asked: list[int] = []
    held = Remembered(lambda: asked.append(1) or len(asked), seconds=60, limit=5)
    assert [held.value(), held.value()] == [1, 1]
    failing = Remembered(lambda: 1 / 0, seconds=60, limit=5)
    assert failing.value() is None
    stuck = Remembered(lambda: __import__("time").sleep(1), seconds=60, limit=0.01)
    assert [stuck.value(), stuck.value()] == [None, None]

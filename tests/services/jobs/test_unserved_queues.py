"""Jobs that wait for a class of which no worker lives: shown with the job, in /readyz and metrics, and told as events."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.db.heartbeats import beat
from app.db.workers import Worker
from app.jobs.queue import DbosQueue
from app.services.jobs import unserved_queues, workers
from app.services.operations.readiness import Readiness
from tests.support.fixtures import Models
from tests.support.metrics import figures
from tests.support.registry import Service, unique

METRIC = 'portllm_jobs_unserved{{class="{}"}}'


@pytest.fixture(scope="module")
def enqueueing(registries: Callable[..., Service]) -> Iterator[Service]:
    """A registry that enqueues for DBOS, of which nothing runs."""
    with registries().running() as service:
        service.admin.family("llama")
        queue = DbosQueue(service.settings.database_url, service.settings.worker_ttl_seconds)
        service.runtime.tools = dataclasses.replace(service.runtime.tools, jobs=queue)
        yield service
        queue.close()


@pytest.fixture
def service(enqueueing: Service) -> Service:
    """The same without jobs, workers and incidents."""
    for table in (enqueueing.jobs_table, "workers", "installation"):
        enqueueing.execute(f"DELETE FROM {table}")
    return enqueueing


@pytest.fixture
def job(service: Service, models: Models) -> str:
    """A job that waits for a worker of class gpu24, also on SQLite, where the service serves cpu itself."""
    made = str(service.register("llama", unique("v"), models.v1).json()["job"])
    service.execute(f"UPDATE {service.jobs_table} SET queue_name = 'gpu24'")
    return made


def work(service: Service, class_name: str) -> None:
    """A worker says that it lives."""
    card: dict[str, Any] = {"host": "h", "pid": 1, "version": "1", "device": "cpu", "memory_bytes": 1, "labels": {}}
    with service.runtime.write() as uow:
        beat(uow.session, Worker(id=class_name, class_name=class_name, **card), workers.REMEMBERED)


def watch(service: Service, patience: float = 0.0) -> None:
    unserved_queues.watch(service.runtime.read, service.runtime.write, patience)


def events(service: Service, after: int) -> list[tuple[str, str, str]]:
    items = service.admin.get("/events", after=after, limit=500).json()["items"]
    return [(e["kind"], e["subject"], e["owner"]) for e in items if e["kind"].startswith("worker.")]


def newest(service: Service) -> int:
    return int(service.rows("SELECT max(id) FROM events")[0][0])


def readiness(service: Service) -> dict[str, Any]:
    service.runtime.readiness = Readiness(service.runtime.checks())
    answer = service.client.get("/readyz")
    assert answer.status_code == 200
    return dict(answer.json()["parts"])


def test_a_waiting_job_says_for_which_class_no_worker_lives(service: Service, job: str) -> None:
    """By itself and in the list, until a worker of that class lives or the job does not wait any more."""
    assert service.admin.get(f"/jobs/{job}").json()["waiting_for"] == "gpu24"
    assert [row["waiting_for"] for row in service.admin.get("/jobs").json()["items"]] == ["gpu24"]
    service.execute(f"UPDATE {service.jobs_table} SET status = 'PENDING'")
    assert service.admin.get(f"/jobs/{job}").json()["waiting_for"] is None
    service.execute(f"UPDATE {service.jobs_table} SET status = 'ENQUEUED'")
    if not service.on_sqlite:
        work(service, "cpu")
        assert service.admin.get(f"/jobs/{job}").json()["waiting_for"] == "gpu24"
        work(service, "gpu24")
        assert service.admin.get(f"/jobs/{job}").json()["waiting_for"] is None


def test_the_service_itself_serves_cpu_on_sqlite(service: Service, job: str) -> None:
    """On PostgreSQL without workers nobody does."""
    service.execute(f"UPDATE {service.jobs_table} SET queue_name = 'cpu'")
    expected = None if service.on_sqlite else "cpu"
    assert service.admin.get(f"/jobs/{job}").json()["waiting_for"] == expected
    assert figures(service)[METRIC.format("cpu")] == (0 if service.on_sqlite else 1)


def test_metrics_count_jobs_without_a_worker(service: Service, job: str) -> None:
    shown = figures(service)
    assert (shown[METRIC.format("gpu24")], shown[METRIC.format("cpu")]) == (1, 0)
    service.admin.post(f"/jobs/{job}/cancel")
    assert METRIC.format("gpu24") not in figures(service)


@pytest.mark.usefixtures("job")
def test_an_incident_is_told_once_when_it_begins_and_once_when_it_ends(service: Service) -> None:
    """Only admins see it; it has no owner but the installation."""
    before = newest(service)
    acme = service.caller("acme")
    for _ in range(3):
        watch(service)
    missing = ("worker.missing", "gpu24", "registry")
    assert events(service, before) == [missing]
    service.execute(f"DELETE FROM {service.jobs_table}")
    for _ in range(3):
        watch(service)
    assert events(service, before) == [missing, ("worker.resolved", "gpu24", "registry")]
    kinds = [e["kind"] for e in acme.get("/events", after=before, limit=500).json()["items"]]
    assert not [kind for kind in kinds if kind.startswith("worker.")]


@pytest.mark.usefixtures("job")
def test_a_restart_of_a_worker_is_no_incident(service: Service) -> None:
    """Within the time after which a silent worker counts as dead nothing is told, neither its beginning nor its end."""
    before = newest(service)
    watch(service, 3600)
    service.execute(f"DELETE FROM {service.jobs_table}")
    watch(service, 3600)
    assert events(service, before) == []
    assert service.rows("SELECT value FROM installation WHERE name = 'unserved-queues'")[0][0] in ({}, "{}")


@pytest.mark.usefixtures("job")
def test_readiness_notes_an_incident_and_stays_ready(service: Service) -> None:
    """Reads go on without workers. On SQLite there is no such part."""
    if service.on_sqlite:
        assert "workers" not in readiness(service)
        return
    assert readiness(service)["workers"]["reason"] is None
    watch(service)
    part = readiness(service)["workers"]
    assert part["ok"] is True
    assert part["reason"].startswith("no live worker takes jobs of class gpu24, since 20")
    work(service, "gpu24")
    watch(service)
    assert readiness(service)["workers"]["reason"] is None

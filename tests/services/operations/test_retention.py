"""What has ended is deleted when its time is over, with all that belongs to it, and nothing else is."""

import dataclasses
import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.db.base import now
from app.jobs.queue import DbosQueue
from app.services.operations import retention
from app.services.operations.retention import Retention
from tests.support.fixtures import Models
from tests.support.metrics import figures
from tests.support.registry import Service, unique

DAY = dt.timedelta(days=1)
OF_JOBS = ("workflow_input", "workflow_output", "operation_outputs", "workflow_events", "workflow_events_history")


@pytest.fixture
def service(registries: Callable[..., Service], models: Models) -> Iterator[Service]:
    with registries().running() as running:
        running.admin.family("llama")
        running.release("llama", "v1", models.v1)
        queue = DbosQueue(running.settings.database_url, running.settings.worker_ttl_seconds)
        running.runtime.tools = dataclasses.replace(running.runtime.tools, jobs=queue)
        yield running
        queue.close()


def prune(service: Service, keep: Retention) -> dict[str, int]:
    return retention.prune(service.runtime.read, service.runtime.write, keep)


def test_finished_jobs_go_with_all_that_the_engine_recorded(service: Service, models: Models) -> None:
    """One of 31 days goes, one of 29 days and one that runs stay; nothing of the first is left in any table."""
    service.execute(f"DELETE FROM {service.jobs_table}")
    old, young, running = (service.register("llama", unique("r"), models.v2).json()["job"] for _ in range(3))
    place = "" if service.on_sqlite else "dbos."
    for job, status, days in ((old, "SUCCESS", 31), (young, "ERROR", 29), (running, "PENDING", 99)):
        ended = int((now() - days * DAY).timestamp() * 1000)
        service.execute(
            f"UPDATE {service.jobs_table} SET status = :status, completed_at = :ended WHERE workflow_uuid = :job",
            status=status, ended=ended, job=job,
        )  # fmt: skip
        for table, values in (
            ("workflow_output (workflow_uuid, output, retention_timestamp)", "(:job, 'x', 1)"),
            ("operation_outputs (workflow_uuid, function_id, function_name, retention_timestamp)", "(:job, 1, 'run', 1)"),
            ("workflow_events (workflow_uuid, key, value)", "(:job, 'progress', 'x')"),
            ("workflow_events_history (workflow_uuid, key, value, function_id)", "(:job, 'progress', 'x', 1)"),
        ):
            service.execute(f"INSERT INTO {place}{table} VALUES {values}", job=job)
    assert prune(service, Retention(jobs=0))["jobs"] == 0
    assert prune(service, Retention(jobs=30))["jobs"] == 1
    for table in ("workflow_status", *OF_JOBS):
        left = {job for (job,) in service.rows(f"SELECT workflow_uuid FROM {place}{table}")}
        assert left == {young, running}, table
    assert service.admin.get(f"/jobs/{old}").status_code == 404
    assert prune(service, Retention(jobs=30))["jobs"] == 0
    assert figures(service)['portllm_retention_deleted_total{what="jobs"}'] == 1.0


def test_discarded_drafts_go_and_published_versions_stay(service: Service, models: Models, another: Callable[[], Path]) -> None:
    patch = service.admin.patch("acme", unique("patch"))
    published = service.admin.publish(patch, models.patch)["id"]
    drafts = [service.admin.draft(patch, another())["id"] for _ in range(2)]
    service.execute("UPDATE patch_versions SET state = 'discarded' WHERE id = :id", id=drafts[0])
    service.execute("UPDATE patch_versions SET created_at = :moment", moment=now() - 31 * DAY)
    assert prune(service, Retention(discarded=30))["discarded"] == 1
    assert {found for (found,) in service.rows("SELECT id FROM patch_versions")} == {published, drafts[1]}


def test_ended_imports_go_but_provenance_stays(service: Service, models: Models) -> None:
    """An import that became a version keeps its row and forgets who asked for it."""
    version = service.admin.publish(service.admin.patch("acme", unique("patch")), models.patch)["id"]
    columns = "id, batch, owner, name, named, upstream, repository, revision, asked_by, attempt, row_version, created_at"
    for ident, state, days in (("a", "refused", 31), ("b", "present", 31), ("c", "imported", 31), ("d", "refused", 1)):
        service.execute(
            f"INSERT INTO imports ({columns}, state, version_id, finished_at) VALUES (:id, 'b', 'acme', 'x', :no, 'hf', 'o/r', "
            "'main', '{\"owner\": \"acme\"}', 1, 1, :moment, :state, :version, :moment)",
            id=ident, state=state, version=version if state != "refused" else None, moment=now() - days * DAY, no=False,
        )  # fmt: skip
    service.execute(
        f"INSERT INTO imports ({columns}, state) VALUES ('e', 'b', 'acme', 'x', :no, 'hf', 'o/r', 'main', '{{}}', 1, 1, :moment, "
        "'queued')", moment=now() - 99 * DAY, no=False,
    )  # fmt: skip
    assert prune(service, Retention(imports=30))["imports"] == 3
    assert service.rows("SELECT id FROM imports ORDER BY id") == [("c",), ("d",), ("e",)]
    ((asked,),) = service.rows("SELECT asked_by FROM imports WHERE id = 'c'")
    assert asked in ({}, "{}")
    assert prune(service, Retention(imports=30))["imports"] == 0

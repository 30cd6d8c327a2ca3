"""What we rely on in the job engine beside its public interface: the same change of its rows, and names that we use."""

from collections.abc import Callable, Iterator

import pytest
from dbos import DBOSClient

from app.jobs.lost_jobs import LostJobs
from app.jobs.queue import APPLICATION, DbosQueue
from app.services.jobs import jobs
from tests.support.registry import Service, unique

# What differs between any two jobs: of one owner they have one priority each, in their order.
OWN = {"workflow_uuid", "inputs", "created_at", "updated_at", "completed_at", "creator_xid", "priority"}


@pytest.fixture(scope="module")
def service(registries: Callable[..., Service]) -> Iterator[Service]:
    with registries().running() as running:
        yield running


@pytest.fixture
def queue(service: Service) -> Iterator[DbosQueue]:
    made = DbosQueue(service.settings.database_url, service.settings.worker_ttl_seconds)
    yield made
    made.close()


@pytest.fixture
def client(service: Service) -> Iterator[DBOSClient]:
    made = DBOSClient(system_database_url=service.settings.database_url, application_name=APPLICATION)
    yield made
    made.destroy()


def enqueued(service: Service, queue: DbosQueue) -> str:
    job = f"acme:digest:{unique('port')}-0"
    with service.runtime.write() as uow:
        queue.enqueue(uow.session, job, "digest", "port")
    return job


def row(service: Service, job: str) -> dict[str, object]:
    """The engine's row of a job."""
    with service.connection() as connection:
        found = connection.exec_driver_sql(f"SELECT * FROM {service.jobs_table} WHERE workflow_uuid = '{job}'").mappings().one()
        return dict(found)


@pytest.mark.parametrize("running", [False, True])
def test_cancel_sets_what_the_engine_sets(service: Service, queue: DbosQueue, client: DBOSClient, running: bool) -> None:
    """Our cancellation, inside our transaction, leaves the row that DBOS's own leaves."""
    ours, theirs = (enqueued(service, queue) for _ in range(2))
    if running:
        service.execute(
            f"UPDATE {service.jobs_table} SET status = 'PENDING', executor_id = 'x', owner_xid = 'y', started_at_epoch_ms = 1 "
            "WHERE status = 'ENQUEUED'"
        )
    client.cancel_workflow(theirs)
    with service.runtime.write() as uow:
        assert queue.cancel(uow.session, ours) is True
    left = [row(service, job) for job in (ours, theirs)]
    assert {name for name in left[0] if left[0][name] != left[1][name]} <= OWN
    assert left[0]["status"] == "CANCELLED"
    assert abs(int(str(left[0]["completed_at"])) - int(str(left[1]["completed_at"]))) < 60_000


def test_cancel_is_part_of_the_transaction(service: Service, queue: DbosQueue) -> None:
    """A rollback leaves the job; a job that ended is not cancelled."""
    job = enqueued(service, queue)

    def cancel_and_fail() -> None:
        with service.runtime.write() as uow:
            queue.cancel(uow.session, job)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cancel_and_fail()
    assert row(service, job)["status"] == "ENQUEUED"
    service.execute(f"UPDATE {service.jobs_table} SET status = 'SUCCESS' WHERE workflow_uuid = :job", job=job)
    with service.runtime.write() as uow:
        assert queue.cancel(uow.session, job) is False
    assert row(service, job)["status"] == "SUCCESS"


def test_requeue_sets_what_recovery_sets(service: Service, queue: DbosQueue, client: DBOSClient) -> None:
    """A job that nobody runs is returned to its queue as by the engine's recovery, and only from the executor that is named."""
    ours, theirs = (enqueued(service, queue) for _ in range(2))
    service.execute(
        f"UPDATE {service.jobs_table} SET status = 'PENDING', executor_id = 'x', owner_xid = 'y', started_at_epoch_ms = 1 "
        "WHERE workflow_uuid IN (:ours, :theirs)", ours=ours, theirs=theirs,
    )  # fmt: skip
    assert client._sys_db.reenqueue_for_recovery(theirs, ["x"], "other") is True
    with service.runtime.write() as uow:
        assert jobs.assigned(uow, "x") == {ours}
        assert jobs.requeue(uow, ours, "another") is False
        assert jobs.requeue(uow, ours, "x") is True
    left = [row(service, job) for job in (ours, theirs)]
    assert {name for name in left[0] if left[0][name] != left[1][name]} <= OWN
    assert left[0]["status"] == "ENQUEUED"


def test_a_job_that_is_assigned_and_not_run_waits_again(service: Service, queue: DbosQueue) -> None:
    """Only when two checks in a row miss it, and never while it runs."""
    lost, running = (enqueued(service, queue) for _ in range(2))
    service.execute(
        f"UPDATE {service.jobs_table} SET status = 'PENDING', executor_id = 'me' WHERE workflow_uuid IN (:lost, :running)",
        lost=lost, running=running,
    )  # fmt: skip
    looks = LostJobs(service.runtime.read, service.runtime.write, "me", lambda: [running])
    assert [looks.check() for _ in range(3)] == [0, 1, 0]
    assert [row(service, job)["status"] for job in (lost, running)] == ["ENQUEUED", "PENDING"]

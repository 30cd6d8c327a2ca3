"""Whose job is next: owners take turns, whatever each has waiting; and how many may wait."""

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import NullPool, create_engine

from app.database_upgrade import upgrade
from app.db import job_indexes, job_queues
from app.jobs.queue import DbosQueue
from app.services.jobs.workers import CPU
from tests.support.fixtures import Models
from tests.support.registry import Service, refused, unique


@pytest.fixture(scope="module")
def engine(registries: Callable[..., Service]) -> Iterator[tuple[Service, DbosQueue]]:
    with registries().running() as service:
        queue = DbosQueue(service.settings.database_url, service.settings.worker_ttl_seconds)
        yield service, queue
        queue.close()


class Waiting:
    """The jobs that wait, in the order in which the engine takes them."""

    def __init__(self, service: Service, queue: DbosQueue) -> None:
        self._service, self._queue = service, queue
        service.execute(f"DELETE FROM {service.jobs_table}")

    def add(self, owner: str, count: int = 1, kind: str = "digest") -> None:
        urgent = self._service.runtime.job_kinds[kind].urgent
        with self._service.runtime.write() as uow:
            for _ in range(count):
                self._queue.enqueue(uow.session, f"{owner}:{kind}:{unique('x')}-0", kind, "x", urgent=urgent)

    def owners(self) -> list[str]:
        """Whose jobs wait, the next one first: the engine's own order."""
        query = f"SELECT workflow_uuid FROM {self._service.jobs_table} WHERE status = 'ENQUEUED' ORDER BY priority, created_at"
        return [job.partition(":")[0] for (job,) in self._service.rows(query)]

    def kinds(self) -> list[str]:
        query = f"SELECT workflow_uuid FROM {self._service.jobs_table} WHERE status = 'ENQUEUED' ORDER BY priority, created_at"
        return [job.split(":")[1] for (job,) in self._service.rows(query)]

    def take(self) -> str:
        """Starts the next one; whose it is."""
        table = self._service.jobs_table
        query = f"SELECT workflow_uuid FROM {table} WHERE status = 'ENQUEUED' ORDER BY priority, created_at LIMIT 1"
        ((job,),) = self._service.rows(query)
        self._service.execute(
            f"UPDATE {table} SET status = 'SUCCESS', recovery_attempts = recovery_attempts + 1 WHERE workflow_uuid = :job",
            job=job,
        )
        return str(job.partition(":")[0])


@pytest.fixture
def waiting(engine: tuple[Service, DbosQueue]) -> Waiting:
    return Waiting(*engine)


def test_an_owner_with_many_jobs_does_not_hold_up_another(waiting: Waiting) -> None:
    waiting.add("large", 300)
    waiting.add("small", 20)
    order = waiting.owners()
    assert [place for place, owner in enumerate(order) if owner == "small"][-1] <= 2 * 20
    assert Counter(order) == {"large": 300, "small": 20}


def test_an_owner_that_comes_later_gets_no_head_start(waiting: Waiting) -> None:
    """It takes turns from where the queue is: what others waited for before is not overtaken by everything that it adds."""
    waiting.add("first", 60)
    for _ in range(30):
        waiting.take()
    waiting.add("late", 30)
    assert Counter(waiting.owners()[:20]) == {"first": 10, "late": 10}


def test_a_job_at_a_time_does_not_starve_a_backlog(waiting: Waiting) -> None:
    waiting.add("backlog", 60)
    for _ in range(20):
        waiting.take()
    taken = list[str]()
    for _ in range(20):
        if "busy" not in waiting.owners():
            waiting.add("busy")
        taken.append(waiting.take())
    assert min(Counter(taken)["backlog"], Counter(taken)["busy"]) >= 9


def test_kinds_of_one_owner_take_turns_and_releases_go_first(waiting: Waiting) -> None:
    waiting.add("acme", 50, "import")
    waiting.add("acme", 1, "digest")
    waiting.add("registry", 1, "ingest")
    assert waiting.kinds().index("digest") <= 2
    assert waiting.kinds()[0] == "ingest"


def test_a_job_that_ran_before_does_not_set_the_front_back(engine: tuple[Service, DbosQueue], waiting: Waiting) -> None:
    """It was handed back with the priority of the time when it was added; who comes now begins where the others are."""
    service, _ = engine
    waiting.add("old")
    service.execute(f"UPDATE {service.jobs_table} SET recovery_attempts = 1")
    waiting.add("large", 40)
    for _ in range(20):
        waiting.take()
    service.execute(f"UPDATE {service.jobs_table} SET status = 'ENQUEUED' WHERE workflow_uuid LIKE 'old:%'")
    waiting.add("new", 20)
    assert waiting.owners()[0] == "old"
    assert Counter(waiting.owners()[1:21])["large"] >= 9


def test_jobs_that_are_moved_begin_at_the_front_in_their_order(engine: tuple[Service, DbosQueue], waiting: Waiting) -> None:
    service, _ = engine
    waiting.add("stranded", 40)
    for _ in range(10):
        waiting.take()
    service.execute(f"UPDATE {service.jobs_table} SET queue_name = 'gpu80'")
    waiting.add("here", 30)
    with service.runtime.write() as uow:
        assert job_queues.move(uow.session, ["digest"], "gpu", [], CPU) == 30
    assert 9 <= Counter(waiting.owners()[:20])["here"] <= 11


def test_waiting_jobs_are_counted_by_owner(engine: tuple[Service, DbosQueue], waiting: Waiting) -> None:
    service, _ = engine
    waiting.add("acme", 3)
    waiting.add("acme", 2, "import")
    waiting.add("acme-2", 1)
    waiting.take()
    with service.runtime.read() as uow:
        assert [job_queues.waiting(uow.session, owner) for owner in ("acme", "acme-2", "ac")] == [4, 1, 0]


def test_a_quota_bounds_waiting_jobs(registries: Callable[..., Service], models: Models) -> None:
    """The next one is refused; asking again for one that waits is not; releases of the installation do not count."""
    with registries(quota_jobs=1).running() as service:
        service.admin.family("llama")
        service.release("llama", "v1", models.v1)
        service.release("llama", "v2", models.v2, parent="v1")
        acme = service.caller("acme")
        acme.publish(acme.patch("acme", "tone"), models.patch)
        ports = [acme.port("acme/tone", release)["id"] for release in ("v1", "v2")]
        first = acme.post(f"/ports/{ports[0]}/digest")
        assert (first.status_code, acme.post(f"/ports/{ports[0]}/digest").json()["job"]) == (202, first.json()["job"])
        problem = refused(acme.post(f"/ports/{ports[1]}/digest"), 403, "quota.exceeded")
        assert problem["data"] == {"owner": "acme", "kind": "jobs", "what": "waiting jobs", "used": 1, "limit": 1, "asked": 1}
        assert acme.get("/owners/acme/usage").json()["jobs"] == {"used": 1, "limit": 1, "own": False}
        assert service.register("llama", "v3", models.v2).status_code == 202
        service.run_jobs()
        assert acme.post(f"/ports/{ports[1]}/digest").status_code == 202


def test_indexes_over_the_engines_tables_are_created_once(engine: tuple[Service, DbosQueue]) -> None:
    service, _ = engine
    for _ in range(2):
        upgrade(service.settings.database_url)
        job_indexes.create(create_engine(service.settings.database_url, poolclass=NullPool))
    table = "sqlite_master WHERE type = 'index' AND" if service.on_sqlite else "pg_indexes WHERE schemaname = 'dbos' AND"
    column = "name" if service.on_sqlite else "indexname"
    found = service.rows(f"SELECT {column} FROM {table} {column} LIKE 'ix_portllm_%' ORDER BY 1")
    assert found == [("ix_portllm_jobs_owner",), ("ix_portllm_jobs_refused",)]

"""Jobs: a view of the engine's own records, by its own client and its own schema, without running it."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text

from app.domain.principal import Principal
from app.jobs.queue import DbosQueue
from app.services.catalog import releases
from app.services.jobs import attempts, jobs
from app.services.ports.orders import DigestResult
from app.services.ports.port_digests import PORT_DIGEST
from app.services.unit_of_work import UnitOfWork
from tests.support.fixtures import Models
from tests.support.registry import Caller, Service, refused, unique


@pytest.fixture(scope="module")
def enqueueing(registries: Callable[..., Service], models: Models) -> Iterator[Service]:
    """A registry that enqueues for DBOS, of which nothing runs."""
    with registries().running() as service:
        service.admin.family("llama")
        service.release("llama", "v1", models.v1)
        queue = DbosQueue(service.settings.database_url, service.settings.worker_ttl_seconds)
        service.runtime.tools = dataclasses.replace(service.runtime.tools, jobs=queue)
        yield service
        queue.close()


@pytest.fixture
def service(enqueueing: Service) -> Service:
    """The same, without a job and without anything that waits for one."""
    enqueueing.execute(f"DELETE FROM {enqueueing.jobs_table}")
    reconcile(enqueueing, set())
    return enqueueing


@pytest.fixture
def name() -> str:
    """A release that there is not yet."""
    return unique("v2-")


@pytest.fixture
def acme(service: Service) -> Caller:
    return service.caller("acme")


@pytest.fixture
def port(service: Service, acme: Caller, models: Models) -> str:
    """A port of acme's that was not digested yet."""
    patch = acme.patch("acme", unique("patch"))
    acme.publish(patch, models.patch)
    return str(acme.port(patch, "v1")["id"])


def test_queued_running_done(service: Service, models: Models, name: str) -> None:
    """A job as it goes on, found by its id and at the head of the list."""
    registered = service.register("llama", name, models.v2).json()
    job = registered["job"]
    found = service.admin.get(f"/jobs/{job}")
    assert (found.status_code, found.json()["id"], found.json()["state"]) == (200, job, "queued")
    assert found.json()["progress"] is found.json()["problem"] is None
    # The engine reads the clock on its own, a moment before or after the row's.
    apart = datetime.fromisoformat(found.json()["created_at"]) - datetime.fromisoformat(registered["created_at"])
    assert abs(apart) < timedelta(seconds=5)
    assert [j["id"] for j in service.admin.get("/jobs").json()["items"]] == [job]
    for status, state in (
        ("PENDING", "running"), ("SUCCESS", "done"), ("CANCELLED", "cancelled"), ("ERROR", "failed"),
        ("MAX_RECOVERY_ATTEMPTS_EXCEEDED", "failed"),
    ):  # fmt: skip
        service.execute(f"UPDATE {service.jobs_table} SET status = :status WHERE workflow_uuid = :job", status=status, job=job)
        shown = service.admin.get(f"/jobs/{job}").json()
        assert shown["state"] == state
        if state == "failed":
            assert shown["problem"]["code"] == "job.crashed"


def test_enqueued_with_the_fact_or_not_at_all(service: Service, models: Models, name: str) -> None:
    """The intent to run a job is part of the transaction: what fails leaves no job behind."""

    def register_and_fail() -> None:
        admin = Principal("admin", frozenset({"admin"}), "test")
        with service.runtime.write() as uow:
            releases.register(uow, admin, "llama", name, str(models.v2), None, copied=False)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        register_and_fail()
    assert service.admin.get("/jobs").json()["items"] == []
    refused(service.admin.get("/families/llama/releases/" + name), 404, "release.unknown")
    # The same registration twice is one job.
    for _ in range(2):
        service.register("llama", name, models.v2)
    assert len(service.admin.get("/jobs").json()["items"]) == 1


def test_whose_jobs(service: Service, acme: Caller, port: str) -> None:
    """An owner's jobs are seen by its tokens and admins; an ingestion, which belongs to the installation, by all by its id."""
    rival = service.caller("rival")
    job = acme.post(f"/ports/{port}/digest").json()["job"]
    assert [j["id"] for j in acme.get("/jobs").json()["items"]] == [job]
    assert rival.get("/jobs").json()["items"] == []
    assert [j["id"] for j in service.admin.get("/jobs").json()["items"]] == [job]
    assert acme.get(f"/jobs/{job}").json()["state"] == "queued"
    refused(rival.get(f"/jobs/{job}"), 404, "job.unknown")
    refused(rival.post(f"/jobs/{job}/cancel"), 404, "job.unknown")
    refused(service.admin.get("/jobs/acme:digest:nope-0"), 404, "job.unknown")
    refused(service.caller("acme", "read").post(f"/jobs/{job}/cancel"), 403, "token.scope")
    assert len(acme.get("/jobs", limit=1).json()["items"]) == 1


def test_owners_whose_names_begin_alike(service: Service, acme: Caller, port: str) -> None:
    """Jobs are found by prefix; acme-2 is not acme."""
    acme.post(f"/ports/{port}/digest")
    for owner in ("acm", "ac", "a", "acme-2"):
        assert service.caller(owner).get("/jobs").json()["items"] == []


def test_cancel_a_digest(acme: Caller, port: str) -> None:
    """A cancelled digest can be asked for again: another attempt, another job."""
    job = acme.post(f"/ports/{port}/digest").json()["job"]
    assert acme.post(f"/ports/{port}/digest").json()["job"] == job
    cancelled = acme.post(f"/jobs/{job}/cancel")
    assert cancelled.status_code == 202
    assert acme.get(f"/jobs/{job}").json()["state"] == "cancelled"
    refused(acme.post(f"/jobs/{job}/cancel"), 409, "state.move")
    again = acme.post(f"/ports/{port}/digest").json()["job"]
    assert again == f"acme:digest:{port}-1"
    assert acme.get(f"/jobs/{again}").json()["state"] == "queued"
    kinds = [e["kind"] for e in acme.get("/events", limit=500).json()["items"]]
    assert kinds.count("job.cancelled") == 1


def test_cancel_an_ingestion(service: Service, models: Models, name: str) -> None:
    """A release whose ingestion is cancelled is rejected, says so, and can be registered again; only an admin may."""
    job = service.register("llama", name, models.v2).json()["job"]
    refused(service.caller("acme").post(f"/jobs/{job}/cancel"), 404, "job.unknown")
    assert service.admin.post(f"/jobs/{job}/cancel").status_code == 202
    release = service.admin.get("/families/llama/releases/" + name).json()
    assert (release["state"], release["problem"]["code"]) == ("rejected", "job.cancelled")
    again = service.register("llama", name, models.v2)
    assert (again.status_code, again.json()["state"]) == (202, "ingesting")
    assert again.json()["job"] == job[:-1] + "2"
    assert service.admin.get(f"/jobs/{again.json()['job']}").json()["state"] == "queued"


def test_reconcile(service: Service, models: Models, name: str) -> None:
    """A release whose job ended without a word does not stay 'ingesting' for ever; one that is queued does."""
    job = service.register("llama", name, models.v2).json()["job"]
    waiting = service.register("llama", name + "-b", models.v2).json()
    given_up = f"UPDATE {service.jobs_table} SET status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED' WHERE workflow_uuid = :job"
    service.execute(given_up, job=job)
    assert reconcile(service, set()) == 1
    rejected = service.admin.get("/families/llama/releases/" + name).json()
    assert (rejected["state"], rejected["problem"]["code"]) == ("rejected", "job.crashed")
    assert service.admin.get("/families/llama/releases/" + name + "-b").json()["state"] == waiting["state"] == "ingesting"
    assert reconcile(service, set()) == 0


def test_reconcile_without_findings_opens_no_write_transaction(service: Service, models: Models, name: str) -> None:
    """On SQLite everybody who writes would wait for it."""

    def refuse() -> AbstractContextManager[UnitOfWork]:
        raise AssertionError("a transaction that writes")

    service.register("llama", name, models.v2)
    assert jobs.reconcile(service.runtime.read, refuse, set()) == 0


def test_reconcile_finds_a_lost_job_among_hundreds_that_wait(service: Service, models: Models, name: str) -> None:
    """However many releases wait, before it and after it: each whose job is gone is found."""
    first = service.register("llama", name, models.v2).json()
    columns = "family_id, owner, state, source, copied, created_at, attempt, row_version"
    copy = f"INSERT INTO releases (id, name, {columns}) SELECT :id, :id, {columns} FROM releases WHERE id = :first"
    with service.connection() as connection:
        for number in range(jobs.AT_ONCE + 100):
            ident = f"rel_{'0' if number % 2 else 'z'}{name}{number}"
            connection.execute(text(copy), {"id": ident, "first": first["id"]})
            if number:
                enqueued = "INSERT INTO {} (workflow_uuid, status, name) VALUES (:job, 'ENQUEUED', 'portllm_job')"
                job = f"registry:ingest:{ident}-1"
                connection.execute(text(enqueued.format(service.jobs_table)), {"job": job})
    assert reconcile(service, set()) == 1
    lost = service.rows("SELECT id FROM releases WHERE state = 'rejected' AND id LIKE :like", like=f"rel_%{name}%")
    assert lost == [(f"rel_z{name}0",)]
    service.execute("UPDATE releases SET state = 'rejected' WHERE id LIKE :like", like=f"rel_%{name}%")


def test_a_result_is_recorded_once(service: Service, acme: Caller, port: str) -> None:
    """A commit that was not confirmed is repeated: the second time there is nothing to record, and so no second event."""
    job, digests = acme.post(f"/ports/{port}/digest").json()["job"], DigestResult({"a": "0" * 64}, None)
    service.execute(f"UPDATE {service.jobs_table} SET status = 'PENDING', executor_id = 'w' WHERE workflow_uuid = :job", job=job)
    told = []
    for _ in range(2):
        with service.runtime.write() as uow:
            told.append(attempts.record(uow, PORT_DIGEST, job, attempts.claim(uow, job, "w"), None, digests))
    assert told == [True, False]


def give_up(service: Service, job: str) -> None:
    """As the engine does it after too many interruptions."""
    given_up = f"UPDATE {service.jobs_table} SET status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED' WHERE workflow_uuid = :job"
    service.execute(given_up, job=job)


def told_of(service: Service, job: str) -> list[str]:
    """Kinds of the events about a job."""
    return [kind for (kind,) in service.rows("SELECT kind FROM events WHERE subject = :job ORDER BY id", job=job)]


def reconcile(service: Service, told: set[str]) -> int:
    return jobs.reconcile(service.runtime.read, service.runtime.write, told)


def test_given_up(service: Service, acme: Caller, port: str, models: Models, name: str) -> None:
    """What the engine gave up is said once, by whichever process: the event, the fact, and a job that can be started again."""
    target = f"s3://exports-of-acme/{name}"
    service.runtime.tools = dataclasses.replace(service.runtime.tools, allowed_s3=("s3://exports-of-acme",))
    written = acme.post(f"/ports/{port}/materialise", {"to": target}).json()
    release = service.register("llama", name, models.v2).json()
    given_up = [acme.post(f"/ports/{port}/digest").json()["job"], written["job"], release["job"]]
    for job in given_up:
        give_up(service, job)
    told: set[str] = set()
    assert (reconcile(service, told), told) == (3, set(given_up))
    assert [told_of(service, job) for job in given_up] == [["job.failed"]] * 3
    assert service.admin.get(f"/families/llama/releases/{name}").json()["problem"]["code"] == "job.crashed"
    about = (f"llama/{name}", written["id"])
    assert [told_of(service, subject)[1:] for subject in about] == [["release.rejected"], ["materialisation.failed"]]
    shown = acme.get(f"/materialisations/{written['id']}").json()
    assert (shown["state"], shown["problem"]["code"]) == ("failed", "job.crashed")
    for known in (told, set[str]()):
        assert reconcile(service, known) == 0
    assert [told_of(service, job) for job in given_up] == [["job.failed"]] * 3
    for job in given_up:
        caller = service.admin if job.startswith("registry:") else acme
        again = caller.post(f"/jobs/{job}/retry")
        assert (again.status_code, again.json()["state"]) == (202, "queued")
        assert told_of(service, again.json()["id"])[-1] == "job.retried"
    assert reconcile(service, set()) == 0
    assert acme.get(f"/materialisations/{written['id']}").json()["state"] == "queued"


def test_given_up_while_nobody_looked(service: Service, models: Models, name: str) -> None:
    """Registered again before anybody said that the first job was given up: that is said, and the second goes on."""
    first = service.register("llama", name, models.v2).json()["job"]
    service.admin.post(f"/jobs/{first}/cancel")
    assert service.register("llama", name, models.v2).json()["state"] == "ingesting"
    give_up(service, first)
    assert reconcile(service, set()) == 1
    assert told_of(service, first) == ["job.cancelled", "job.failed"]
    assert service.admin.get(f"/families/llama/releases/{name}").json()["state"] == "ingesting"


def test_a_materialisation_without_its_job(service: Service, acme: Caller, port: str, name: str) -> None:
    """It waits for nobody: it is marked as failed, and can be asked for again."""
    service.runtime.tools = dataclasses.replace(service.runtime.tools, allowed_s3=("s3://exports-of-acme",))
    written = acme.post(f"/ports/{port}/materialise", {"to": f"s3://exports-of-acme/{name}"}).json()
    assert reconcile(service, set()) == 0
    service.execute(f"DELETE FROM {service.jobs_table} WHERE workflow_uuid = :job", job=written["job"])
    assert reconcile(service, set()) == 1
    assert acme.get(f"/materialisations/{written['id']}").json()["state"] == "failed"


def test_cancel_a_materialisation(service: Service, acme: Caller, port: str, name: str) -> None:
    service.runtime.tools = dataclasses.replace(service.runtime.tools, allowed_s3=("s3://exports-of-acme",))
    written = acme.post(f"/ports/{port}/materialise", {"to": f"s3://exports-of-acme/{name}"}).json()
    assert acme.post(f"/jobs/{written['job']}/cancel").status_code == 202
    assert acme.get(f"/materialisations/{written['id']}").json()["state"] == "cancelled"
    assert told_of(service, written["id"]) == ["materialisation.queued", "materialisation.cancelled"]


def test_ids_that_are_none(service: Service) -> None:
    """Whatever is asked for, a job that is not there is a 404."""
    for job in ("x", "acme", "acme:", ":::", "registry:ingest", "a" * 300, "acme:digest:%25"):
        refused(service.admin.get(f"/jobs/{job}"), 404, "job.unknown")
        refused(service.admin.post(f"/jobs/{job}/cancel"), 404, "job.unknown")


def test_a_retired_port_with_what_was_written_of_it(service: Service, acme: Caller, port: str, name: str) -> None:
    """Asked for again it is there again, and so is where its merged model was written."""
    service.runtime.tools = dataclasses.replace(service.runtime.tools, allowed_s3=("s3://exports-of-acme",))
    written = acme.post(f"/ports/{port}/materialise", {"to": f"s3://exports-of-acme/{name}"}).json()
    assert acme.post(f"/ports/{port}/retire").json()["state"] == "retired"
    patch = acme.get(f"/ports/{port}").json()["patch"]
    again = acme.port(patch, "v1")
    assert (again["state"], again["id"] == port) == ("ready", False)
    assert [m["id"] for m in acme.get(f"/ports/{again['id']}/materialisations").json()["items"]] == [written["id"]]
    refused(acme.get(f"/ports/{port}"), 404, "port.unknown")

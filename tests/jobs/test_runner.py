"""The state machine of jobs without the engine around it: what is tried again, what is recorded, and what is left to others."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.db import ports
from app.db.jobs import Claim
from app.domain.errors import DomainError
from app.jobs.codec import encode
from app.jobs.engine import EXECUTOR
from app.jobs.runner import ATTEMPTS, JobRunner, Outcome
from app.jobs.supervise import BusyError, ChildError
from app.services.jobs import attempts
from app.services.ports.orders import DigestResult
from app.services.ports.port_digests import PortDigest
from tests.support.fixtures import Models
from tests.support.registry import Service, unique

RESULT = {"result": encode(DigestResult({"model.safetensors": "0" * 64}, None))}
BUSY = DomainError("storage.unavailable", reason="it answered 503").to_problem()


class Keeping(PortDigest):
    """A kind whose files must not be kept."""

    def keep(self, *_: object) -> None:
        raise AssertionError("kept")


@pytest.fixture(scope="module")
def service(registries: Callable[..., Service], models: Models) -> Iterator[Service]:
    """A registry with a release and nothing that waits."""
    with registries().running() as running:
        running.admin.family("llama")
        running.release("llama", "v1", models.v1)
        yield running


@pytest.fixture
def job(service: Service, models: Models) -> str:
    """A digest job that runs here."""
    patch = service.admin.patch("acme", unique("patch"))
    service.admin.publish(patch, models.patch)
    port = service.admin.port(patch, "v1")["id"]
    job = str(service.admin.post(f"/ports/{port}/digest").json()["job"])
    service.job_row(job)
    return job


def run(service: Service, job: str, *ends: Any, result: Any = RESULT, **more: Any) -> tuple[Outcome, int]:
    """Runs a job whose processes end one after the other as said; the outcome, and how many were started.

    What can be called is called before its process ends with `result`.
    """
    started = list[Any]()

    async def child(*_: Any) -> dict[str, Any]:
        started.append(ends[len(started)])
        if callable(started[-1]):
            started[-1]()
        if isinstance(started[-1], Exception):
            raise started[-1]
        return dict(result if callable(started[-1]) else started[-1])

    runtime = service.runtime
    runner = JobRunner(runtime.job_kinds, runtime.write, runtime.read, EXECUTOR, run_child=child, first_pause=0.0)
    return asyncio.run(runner.job(job, "digest", runner.attempt, **more)), len(started)


def digests(service: Service, job: str) -> Any:
    port = job.split(":")[2].rpartition("-")[0]
    with service.runtime.read() as uow:
        found = ports.get(uow.session, port)
        assert found is not None
        return found.digests


def events(service: Service, job: str) -> list[str]:
    return [kind for (kind,) in service.rows("SELECT kind FROM events WHERE subject = :job ORDER BY id", job=job)]


def test_result_is_recorded_with_its_events(service: Service, job: str) -> None:
    assert run(service, job, RESULT) == ({"result": "recorded"}, 1)
    assert digests(service, job) == {"model.safetensors": "0" * 64}
    assert events(service, job) == ["job.started", "job.done"]


@pytest.mark.parametrize("error", [ChildError("signal 9"), BusyError(BUSY)], ids=["killed", "busy"])
def test_process_that_may_succeed_later_is_started_again(service: Service, job: str, error: Exception) -> None:
    assert run(service, job, error, error, RESULT) == ({"result": "recorded"}, ATTEMPTS)
    assert digests(service, job)


@pytest.mark.parametrize(
    ("error", "code"), [(ChildError("signal 9"), "job.crashed"), (BusyError(BUSY), "storage.unavailable")], ids=["killed", "busy"]
)
def test_process_that_never_succeeds_is_recorded_as_failed(service: Service, job: str, error: Exception, code: str) -> None:
    outcome, started = run(service, job, *[error] * ATTEMPTS)
    assert (outcome["error"]["code"], started) == (code, ATTEMPTS)
    assert events(service, job) == ["job.started", "job.failed"]


def test_refusal_is_recorded_without_another_attempt(service: Service, job: str) -> None:
    outcome, started = run(service, job, {"error": DomainError("server.storage_full").to_problem()})
    assert (outcome["error"]["code"], started) == ("server.storage_full", 1)


def test_result_of_another_form_is_a_crash(service: Service, job: str) -> None:
    outcome, _ = run(service, job, *[{"result": {"type": "DigestResult", "digests": {}}}] * ATTEMPTS)
    assert outcome["error"]["code"] == "job.crashed"
    assert "fidelity" in outcome["error"]["detail"]
    assert digests(service, job) is None


def test_job_that_was_lost_meanwhile_records_nothing(service: Service, job: str) -> None:
    with pytest.raises(DomainError) as caught:
        run(service, job, lambda: service.job_row(job, executor="another"))
    assert caught.value.code == "job.lost"
    assert digests(service, job) is None
    assert events(service, job) == ["job.started"]


def test_failure_of_a_job_that_was_lost_meanwhile_is_not_recorded(service: Service, job: str) -> None:
    with pytest.raises(DomainError) as caught:
        run(service, job, lambda: service.job_row(job, executor="another"), result={"error": BUSY})
    assert caught.value.code == "job.lost"
    assert events(service, job) == ["job.started"]


def test_files_of_a_job_that_was_lost_are_not_kept(service: Service, job: str) -> None:
    with service.runtime.write() as uow, pytest.raises(DomainError) as caught:
        attempts.keep(uow, Keeping(), job, Claim("another", 0), None, None)
    assert caught.value.code == "job.lost"


def test_job_that_another_executor_has_is_not_begun(service: Service, job: str) -> None:
    service.job_row(job, executor="another")
    with pytest.raises(DomainError) as caught:
        run(service, job)
    assert caught.value.code == "job.lost"
    assert events(service, job) == []


def test_execution_that_the_engine_ended_records_nothing(service: Service, job: str) -> None:
    with pytest.raises(ZeroDivisionError):
        run(service, job, ZeroDivisionError(), is_over=lambda error: isinstance(error, ZeroDivisionError))
    assert events(service, job) == ["job.started"]


def test_job_whose_subject_has_its_result_does_nothing(service: Service, job: str) -> None:
    run(service, job, RESULT)
    assert run(service, job) == ({"result": None}, 0)


def test_attempt_of_a_claim_that_is_over_records_nothing(service: Service, job: str) -> None:
    """The same executor, which has started the job once more since."""
    runtime = service.runtime

    async def child(*_: Any) -> dict[str, Any]:
        return dict(RESULT)

    runner = JobRunner(runtime.job_kinds, runtime.write, runtime.read, EXECUTOR, run_child=child)
    with pytest.raises(DomainError) as caught:
        asyncio.run(runner.attempt(job, "digest", Claim(EXECUTOR, 7)))
    assert caught.value.code == "job.lost"

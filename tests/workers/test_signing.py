"""Signatures, choice of a worker, claims: what needs no process."""

import time
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.db import jobs
from app.db.jobs import Claim
from app.domain.errors import DomainError
from app.domain.signing import check_read, sign_read
from app.services.jobs.workers import ReadWorker, choose
from app.settings import Settings
from app.worker import Role, WorkerRuntime
from tests.support.workers import Cluster

KEY = b"k" * 32


def test_a_signature_stands_for_all_that_was_signed() -> None:
    """Moving characters from one part to the next is another text."""
    expires = int(time.time()) + 60
    signature = sign_read(KEY, "w", "prt_1", "a/b", expires)
    check_read([KEY], "w", "prt_1", "a/b", expires, signature)
    for worker, port, path, until in (
        ("w2", "prt_1", "a/b", expires), ("w", "prt_2", "a/b", expires), ("w", "prt_1", "a/c", expires),
        ("w", "prt_1a", "/b", expires), ("w", "prt_1", "a/b", expires + 1),
    ):  # fmt: skip
        with pytest.raises(DomainError) as refused:
            check_read([KEY], worker, port, path, until, signature)
        assert refused.value.code == "worker.signature"
    with pytest.raises(DomainError) as refused:
        check_read([KEY], "w", "prt_1", "a/b", expires, "é" * 64)
    assert refused.value.code == "worker.signature"


def test_a_key_replaces_another() -> None:
    """What the one before signed is believed as long as it is accepted, and no longer."""
    signature = sign_read(KEY, "w", "prt_1", "a", 9)
    check_read([b"the next", KEY], "w", "prt_1", "a", 9, signature)
    for keys in ([b"the next"], []):
        with pytest.raises(DomainError) as refused:
            check_read(keys, "w", "prt_1", "a", 9, signature)
        assert refused.value.code == "worker.signature"


def test_a_model_stays_with_its_worker() -> None:
    """Shared evenly, the same answer in any order, and only the models of a worker that is gone move."""
    readers = [ReadWorker(f"w{n}", f"http://w{n}", 0) for n in range(4)]
    models = [f"fingerprint{n}" for n in range(400)]
    before = {model: choose(readers, model) for model in models}
    assert {model: choose(readers[::-1], model) for model in models} == before
    assert min(Counter(before.values()).values()) > 60
    after = {model: choose(readers[1:], model) for model in models}
    assert {m for m in models if after[m] != before[m]} == {m for m in models if before[m] == readers[0]}
    assert choose([], "x") is None


def test_a_worker_that_has_not_started_is_not_ready(tmp_path: Path) -> None:
    """Its readiness is not only that of the database."""
    with pytest.raises(DomainError) as refused:
        WorkerRuntime(Settings(data=tmp_path), Role("cpu")).checks()["jobs"]()
    assert refused.value.code == "worker.unready"


def test_starts_that_cannot_be(tmp_path: Path) -> None:
    """On SQLite the service runs the jobs; and who listens must know the key, before anybody is sent there."""
    url = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    for settings, role, code in (
        (Settings(data=tmp_path), Role("cpu"), "worker.embedded"),
        (Settings(data=tmp_path, database_url=url), Role("cpu", "http://127.0.0.1:1"), "worker.key"),
    ):
        with pytest.raises(DomainError) as refused:
            WorkerRuntime(settings, role).start()
        assert refused.value.code == code
    with pytest.raises(DomainError) as refused:
        WorkerRuntime(Settings(data=tmp_path), Role("No Name"))
    assert refused.value.code == "request.name"


def test_a_claim_holds_for_one_start_of_a_job(cluster: Cluster) -> None:
    """Executor and attempt: who lost a job and has it again in another start cannot record the first one's result.

    While a result is recorded, the job can be given to nobody.
    """
    engine = create_engine(cluster.database())

    def give(executor: str | None, attempt: int, status: str = "PENDING") -> None:
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '100ms'"))
            connection.execute(
                text(
                    "INSERT INTO dbos.workflow_status (workflow_uuid, status, executor_id, recovery_attempts, priority, "
                    "created_at, updated_at) VALUES ('job', :status, :executor, :attempt, 0, 0, 0) "
                    "ON CONFLICT (workflow_uuid) DO UPDATE SET status = :status, executor_id = :executor, "
                    "recovery_attempts = :attempt"
                ),
                {"status": status, "executor": executor, "attempt": attempt},
            )

    give("a", 1)
    with Session(engine) as session:
        first = jobs.claim(session, "job", "a")
        assert first == Claim("a", 1)
        assert jobs.claim(session, "job", "b") is None
        assert jobs.still_ours(session, "job", first)
        with pytest.raises(OperationalError) as locked:
            give("b", 2)
        assert isinstance(locked.value.orig, psycopg.errors.LockNotAvailable)
    for executor, attempt, status in (("b", 2, "PENDING"), ("a", 3, "PENDING"), ("a", 1, "CANCELLED"), ("a", 1, "ENQUEUED")):
        give(executor, attempt, status)
        with Session(engine) as session:
            assert not jobs.still_ours(session, "job", first)
    engine.dispose()

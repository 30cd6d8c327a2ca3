"""Runs the registry with one more kind of job, by the real engine and in real processes; prints what became of its jobs as JSON.

For test_toy_kind.py. DBOS is a singleton, so this is a program of its own.

Argument: an empty directory.
"""

import json
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine

from app.composition import JOB_KINDS
from app.db.base import now
from app.domain.principal import Principal
from app.jobs.heartbeat import process_id
from app.runtime import Runtime
from app.services.jobs import jobs
from app.services.operations import metrics
from app.services.operations.fsck.stuck import stuck
from app.settings import Settings
from tests.support.service_process import until
from tests.support.toy_kind import TOY, Toy, ToyBase

ACME = Principal("acme", frozenset({"read", "publish"}), "tok")
FATES = ("works", "fails", "breaks", "waits", "lost")


class ToyRuntime(Runtime):
    """A registry that knows one more kind."""

    job_kinds = {**JOB_KINDS, TOY.name: TOY}  # noqa: RUF012


def main(directory: Path) -> None:
    settings = Settings(data=directory, job_poll_seconds=0.1, job_concurrency=4, warm=False)
    runtime = ToyRuntime(settings)
    runtime.start()
    try:
        engine = create_engine(settings.database_url)
        ToyBase.metadata.create_all(engine)
        engine.dispose()
        sys.stdout.write(json.dumps(play(runtime)))
    finally:
        runtime.stop()


def play(runtime: Runtime) -> dict[str, Any]:
    """Starts a job of every fate, cancels the one that waits, and retries those that have not worked."""

    def seen(name: str) -> dict[str, Any]:
        with runtime.read() as uow:
            row = uow.session.get_one(Toy, name)
            ended = row.finished_at is not None
            code = row.problem["code"] if row.problem else None
            return {"state": row.state, "answer": row.answer, "code": code, "ended": ended, "job": row.job}

    def ended(name: str) -> dict[str, Any]:
        until(lambda: seen(name)["ended"])
        return seen(name)

    facts: dict[str, Any] = {"process": process_id()}
    with runtime.write() as uow:
        for number, fate in enumerate(FATES):
            row = Toy(id=fate, created_at=now(), owner="acme", fate=fate, number=number, state="queued")
            uow.add(row)
            if fate != "lost":  # for which nothing is enqueued, as if the engine had forgotten it
                TOY.begin(uow, ACME, row)
    facts["stuck"] = [found.to_dict() for found in stuck(runtime)]
    waits = f"acme:{TOY.name}:waits-1"

    def status() -> Any:
        with runtime.read() as uow:
            return jobs.get(uow, ACME, waits)

    until(lambda: status().progress)
    facts["progress"] = status().progress["note"]
    with runtime.write() as uow:
        jobs.cancel(uow, ACME, waits)
    facts["first"] = {fate: ended(fate) for fate in FATES}
    until(lambda: not runtime.doing())
    for fate in FATES[1:]:
        if fate != "lost":
            with runtime.write() as uow:
                jobs.retry(uow, ACME, facts["first"][fate]["job"])
    facts["second"] = {fate: ended(fate) for fate in FATES if fate != "lost"}
    with runtime.read() as uow:
        facts["listed"] = len(jobs.list_page(uow, ACME, TOY.name, None, None, 100))

    def counted() -> int:
        with runtime.read() as uow:
            return metrics.work(uow, runtime.worker_ttl).jobs[TOY.name, "done", "cpu"]

    # The engine ends a job a moment after its result was recorded.
    until(lambda: counted() == len(FATES) - 1)
    facts["done"] = counted()
    return facts


if __name__ == "__main__":
    main(Path(sys.argv[1]))

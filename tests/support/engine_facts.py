"""Runs DBOS, which is a singleton, in this process and prints what it did as one JSON object; for test_engine_names.py.

Argument: the address of an empty database.
"""

import asyncio
import json
import sys
import threading
from typing import Any

from dbos import DBOS, DBOSConfig, Queue, _sys_db
from sqlalchemy import create_engine, text

from app.jobs.engine import LISTENER
from tests.support.service_process import until

QUEUE = "cpu"
facts: dict[str, Any] = {}
running: list[str] = []
most_at_once: list[int] = []
may_end: dict[str, threading.Event] = {}
raised: dict[str, str] = {}


@DBOS.step(name="step")
async def step() -> int:
    return 1


@DBOS.workflow(name="job", max_recovery_attempts=3)
async def job(name: str) -> str:
    running.append(name)
    most_at_once.append(len(running))
    try:
        while not may_end.setdefault(name, threading.Event()).is_set():
            await asyncio.sleep(0.02)
        try:
            await step()
        except BaseException as error:  # neither is an `Exception`
            raised[name] = type(error).__name__
            raise
        return name
    finally:
        running.remove(name)


def limit_to_one() -> None:
    """As `app.jobs.engine` does it."""
    stored = _sys_db.queue_from_db_row

    def queue_from_db_row(row: Any, **more: Any) -> Queue:
        queue = stored(row, **more)
        queue._worker_concurrency, queue._polling_interval_sec = 1, 0.05
        return queue

    _sys_db.queue_from_db_row = queue_from_db_row


def start(name: str) -> str:
    """Enqueues a job and waits until it runs."""
    handle = DBOS.enqueue_workflow(QUEUE, job, name)
    until(lambda: name in running)
    return str(handle.workflow_id)


def listeners() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.is_alive() and thread.name.endswith(LISTENER)]


def limits() -> None:
    """Three jobs on a queue whose row allows three at once, where this process was told to run one."""
    names = ["a", "b", "c"]
    for name in names:
        may_end[name] = threading.Event()
        may_end[name].set()
    for handle in [DBOS.enqueue_workflow(QUEUE, job, name) for name in names]:
        handle.get_result()
    facts["most_at_once"] = max(most_at_once)


def memory(instance: DBOS) -> None:
    """What is in this process's memory while a job runs, and after it."""
    ident = start("remembered")
    facts["remembered_while_running"] = ident in instance._active_workflows_set.activeList()
    may_end["remembered"].set()
    until(lambda: ident not in instance._active_workflows_set.activeList())


def cancelled() -> None:
    """What the job sees, and what somebody who waits for it."""
    ident = start("cancelled")
    DBOS.cancel_workflow(ident)
    may_end["cancelled"].set()
    facts["cancelled"] = until(lambda: raised.get("cancelled"))
    try:
        DBOS.retrieve_workflow(ident).get_result()
    except Exception as error:  # noqa: BLE001  its name is the fact
        facts["cancelled_awaited"] = type(error).__name__


def lost(url: str) -> None:
    """A job that another executor has by now."""
    ident = start("lost")
    engine = create_engine(url)
    with engine.begin() as connection:
        statement = "UPDATE workflow_status SET owner_xid = 'another', executor_id = 'other' WHERE workflow_uuid = :ident"
        connection.execute(text(statement), {"ident": ident})
    may_end["lost"].set()
    facts["lost"] = until(lambda: raised.get("lost"))
    until(lambda: "lost" not in running)
    DBOS._recover_pending_workflows(["nobody"])
    with engine.begin() as connection:
        query = text("SELECT status FROM workflow_status WHERE workflow_uuid = :ident")
        facts["status_of_a_live_one"] = connection.execute(query, {"ident": ident}).scalar()
    DBOS._recover_pending_workflows(["other"])
    facts["result_after_recovery"] = DBOS.retrieve_workflow(ident).get_result()
    engine.dispose()


def main(url: str) -> None:
    config = DBOSConfig(
        name="contract", system_database_url=url, executor_id="me", application_version="1", log_level="CRITICAL"
    )  # fmt: skip
    instance = DBOS(config=config)
    DBOS.listen_queues([QUEUE])
    limit_to_one()
    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=3, polling_interval_sec=0.05, on_conflict="always_update")
    facts["listeners"] = len(listeners())
    limits()
    memory(instance)
    cancelled()
    lost(url)
    DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=0)
    facts["listeners_after"] = len(listeners())
    sys.stdout.write(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1])

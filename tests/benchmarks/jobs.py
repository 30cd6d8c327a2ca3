"""Jobs a second with two workers on PostgreSQL, and seconds from the death of a worker until another has its job.

"Nothing to do" is a job whose subject is gone: the engine's own work. "A tiny release" has a process of its own.
"""

import shutil
import tempfile
import time
from pathlib import Path

import httpx
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from app.jobs.queue import DbosQueue
from app.settings import Settings
from tests.benchmarks.harness import Options, print_machine, print_table, spread, verdict
from tests.support.service_process import until
from tests.support.sparse_models import large_release
from tests.support.workers import Cluster, Fleet, Worker

CONCURRENCY = 8
AIM = 30.0
TTL = 15


def run(options: Options) -> None:
    """Prints a table of rates and one of take-over times, with the default beat and time to live."""
    print_machine()
    idle, tiny, rounds = (50, 5, 1) if options.small else (1000, 30, options.runs)
    with tempfile.TemporaryDirectory(prefix="pg") as short:
        cluster = Cluster(Path(short) / "data")
        root = options.work / "jobs"
        shutil.rmtree(root, ignore_errors=True)
        (root / "releases").mkdir(parents=True)
        fleet = Fleet(root, cluster.database(), root / "releases")
        # As a user has it, not as the tests do.
        fleet.settings |= {
            "PORTLLM_WORKER_BEAT_SECONDS": "3", "PORTLLM_WORKER_TTL_SECONDS": str(TTL),
            "PORTLLM_JOB_POLL_SECONDS": str(Settings.model_fields["job_poll_seconds"].default),
        }  # fmt: skip
        fleet.start()
        try:
            with fleet.client() as client:
                client.post("/families", json={"name": "bench"}).raise_for_status()
                with fleet.working(*[("--concurrency", str(CONCURRENCY))] * 2):
                    rates = [("nothing to do", idle, _nothing(fleet, idle)), ("a tiny release", tiny, _tiny(fleet, client, tiny))]
                seconds = [_take_over(fleet, client, number) for number in range(rounds)]
        finally:
            fleet.kill()
            cluster.stop()
    rows = [(what, count, f"{count / took:.1f}") for what, count, took in rates]
    print_table(f"two workers, {CONCURRENCY} jobs at once each", ("job", "jobs", "jobs/s"), rows)
    print_table("take-over after kill -9, beat 3 s, time to live 15 s", ("rounds", "s"), [(rounds, spread(seconds))])
    verdict(f"the slowest take-over was after {max(seconds):.1f} s (aim: under {AIM:.0f} s)", max(seconds) < AIM)


def _nothing(fleet: Fleet, count: int) -> float:
    """Seconds for jobs that find nothing to do, enqueued in one transaction."""
    url = fleet.settings["PORTLLM_DATABASE_URL"]
    queue, engine = DbosQueue(url, 15.0), create_engine(url)
    with Session(engine) as session:
        for number in range(count):
            queue.enqueue(session, f"bench:digest:none-{number}", "digest", "none")
        session.commit()
    began = time.perf_counter()
    left = "SELECT 1 FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING') LIMIT 1"
    until(lambda: not fleet.rows(left), 600)
    took = time.perf_counter() - began
    queue.close()
    engine.dispose()
    return took


def _tiny(fleet: Fleet, client: httpx.Client, count: int) -> float:
    """Seconds for the ingestion of releases of 25 MB, from the first request to the last release."""
    for number in range(count):
        large_release(fleet.root / "releases" / f"t{number}", 1)
    began = time.perf_counter()
    for number in range(count):
        _register(fleet, client, f"t{number}")
    query = {"family": "bench", "state": "ready", "limit": count}
    until(lambda: len(client.get("/families/bench/releases", params=query).json()["items"]) >= count, 600)
    return time.perf_counter() - began


def _take_over(fleet: Fleet, client: httpx.Client, number: int) -> float:
    """Seconds from kill -9 of the worker that has a job until another worker's process does it."""
    large_release(fleet.root / "releases" / f"l{number}", 400, shards=400)
    with fleet.working((), ()) as workers:
        time.sleep(TTL + 1)  # a worker that has just begun takes its time before it judges
        job = _register(fleet, client, f"l{number}")
        until(lambda: any(worker.jobs() for worker in workers))
        until(lambda: client.get(f"/jobs/{job}").json()["progress"])
        first = next(worker for worker in workers if worker.jobs())
        others: list[Worker] = [worker for worker in workers if worker is not first]
        began = time.perf_counter()
        first.kill()
        until(others[0].jobs, 120)
        took = time.perf_counter() - began
        client.post(f"/jobs/{job}/cancel").raise_for_status()
        until(lambda: not others[0].jobs(), 30)
    return took


def _register(fleet: Fleet, client: httpx.Client, name: str) -> str:
    body = {"name": name, "directory": str(fleet.root / "releases" / name)}
    return str(client.post("/families/bench/releases", json=body).raise_for_status().json()["job"])

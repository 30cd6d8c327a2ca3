"""A worker that is killed, paused, told to end or without its database: its jobs are done once, by whoever can."""

import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.service_process import until
from tests.support.sparse_models import large_release
from tests.support.workers import Cluster, Fleet, Worker

LAYERS = 30  # 755 MB of holes, read twice: seconds


@pytest.fixture
def client(fleet: Fleet) -> Any:
    with fleet.client() as http:
        http.post("/families", json={"name": "long"})
        yield http


def begin(fleet: Fleet, client: httpx.Client, name: str, layers: int = LAYERS) -> dict[str, Any]:
    """Registers a release that takes seconds to read."""
    directory = large_release(fleet.root / "releases" / name, layers, shards=layers)
    answer = client.post("/families/long/releases", json={"name": name, "directory": str(directory)})
    return dict(answer.raise_for_status().json())


def holder(client: httpx.Client, workers: list[Worker], job: str) -> Worker:
    """The worker that runs a job, once it does."""

    def found() -> Worker | None:
        """a worker to have the job"""
        listed = client.get("/workers").raise_for_status().json()["items"]
        names = {w["id"] for w in listed if job in w["jobs"]}
        return next((w for w in workers if w.id in names and w.jobs()), None)

    worker = until(found)
    assert worker
    return worker


def ready(client: httpx.Client, name: str) -> dict[str, Any]:
    """The release, once it is ready."""

    def is_ready() -> dict[str, Any] | None:
        """the release to be ready"""
        row: dict[str, Any] = client.get(f"/families/long/releases/{name}").json()
        assert row["state"] != "rejected", row
        return row if row["state"] == "ready" else None

    row = until(is_ready, 120)
    assert row
    return row


def told(client: httpx.Client, job: str) -> list[tuple[str, Any]]:
    """What was told about a job, but for its progress: kind, and attempt where it was started."""
    events = client.get("/events", params={"limit": 500}).json()["items"]
    return [
        (e["kind"], e["data"].get("attempt")) for e in events if e["subject"] == job and e["kind"] != "job.progress"
    ]  # fmt: skip


def test_a_killed_worker_is_replaced(fleet: Fleet, client: httpx.Client) -> None:
    """kill -9 in the middle of a job: its process ends, another worker does it, once; the list of workers says who is dead."""
    with fleet.working((), ()) as workers:
        release = begin(fleet, client, "killed")
        first = holder(client, workers, release["job"])
        until(lambda: client.get(f"/jobs/{release['job']}").json()["progress"])
        first.kill()
        (other,) = [w for w in workers if w is not first]
        assert holder(client, [other], release["job"]) is other
        until(lambda: not first.jobs(), 10)
        ready(client, "killed")
        until(lambda: client.get(f"/jobs/{release['job']}").json()["state"] == "done")
        assert client.get(f"/jobs/{release['job']}").json()["attempt"] == 2
        assert told(client, release["job"]) == [("job.started", 1), ("job.started", 2), ("job.done", None)]
        alive = {w["id"]: w["alive"] for w in client.get("/workers").json()["items"]}
        assert (alive[first.id], alive[other.id]) == (False, True)


def test_a_paused_worker_records_nothing(fleet: Fleet, client: httpx.Client) -> None:
    """Stopped for longer than its time, then continued while another has its job: it notices, and lives on."""
    with fleet.working((), ()) as workers:
        release = begin(fleet, client, "paused")
        first = holder(client, workers, release["job"])
        first.send(signal.SIGSTOP)
        (other,) = [w for w in workers if w is not first]
        assert holder(client, [other], release["job"]) is other
        first.send(signal.SIGCONT)
        until(lambda: not first.jobs(), 30)
        assert client.get(f"/jobs/{release['job']}").json()["state"] in ("running", "done")
        ready(client, "paused")
        until(lambda: client.get(f"/jobs/{release['job']}").json()["state"] == "done")
        assert told(client, release["job"]) == [("job.started", 1), ("job.started", 2), ("job.done", None)]
        kinds = [e["kind"] for e in client.get("/events", params={"limit": 500}).json()["items"] if e["subject"] == "long/paused"]
        assert kinds == ["release.registered", "release.ready"]
        # The paused one is among the living again, and of use.
        other.kill()
        assert holder(client, [first], begin(fleet, client, "after")["job"]) is first
        ready(client, "after")


def test_a_worker_that_ends_hands_back_at_once(fleet: Fleet, client: httpx.Client) -> None:
    """SIGTERM: it ends in order, and its job is taken up by another that would wait ten minutes before it took it for dead."""
    with fleet.working((), (), PORTLLM_WORKER_TTL_SECONDS="600") as workers:
        release = begin(fleet, client, "ended")
        first = holder(client, workers, release["job"])
        assert first.stop(15) == 0, first.errors()
        assert not first.jobs()
        assert first.id not in [w["id"] for w in client.get("/workers").json()["items"]]
        (other,) = [w for w in workers if w is not first]
        assert holder(client, [other], release["job"]) is other
        ready(client, "ended")
        assert "Traceback" not in first.errors()


def test_a_worker_without_its_database_goes_on(fleet: Fleet, client: httpx.Client, cluster: Cluster) -> None:
    """The database is away for longer than a worker's time: the job is finished all the same, as its first attempt."""
    with fleet.working(()) as (worker,):
        release = begin(fleet, client, "away")
        assert holder(client, [worker], release["job"]) is worker
        cluster.restart()
        ready(client, "away")
        until(lambda: client.get(f"/jobs/{release['job']}").json()["state"] == "done")
        assert worker.process.poll() is None
        assert told(client, release["job"])[-1] == ("job.done", None)
        assert "Traceback" not in worker.errors(), "a database that is away is told in one line each time"


def test_a_crashed_child_is_started_again(fleet: Fleet, client: httpx.Client) -> None:
    """kill -9 of the job's process alone: the same worker does it again, in the same attempt."""
    with fleet.working(()) as (worker,):
        release = begin(fleet, client, "crashed")
        (child,) = until(worker.jobs)
        os.kill(child, signal.SIGKILL)
        until(lambda: worker.jobs() not in ([], [child]))
        ready(client, "crashed")
        assert told(client, release["job"])[0] == ("job.started", 1)
        assert client.get(f"/jobs/{release['job']}").json()["attempt"] == 1


def test_the_releases_were_read_whole(fleet: Fleet, client: httpx.Client) -> None:
    """Whoever finished a release found what the others did: the manifests of equal directories are equal."""
    rows = client.get("/families/long/releases").json()["items"]
    manifests = {row["name"]: row["manifest"] for row in rows if row["state"] == "ready"}
    assert len(manifests) >= 5
    assert len(set(manifests.values())) == 1, manifests
    assert Path(rows[0]["source"]).is_dir()

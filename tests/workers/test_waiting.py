"""The command line while it waits for a job: it says that no worker takes it, and stops when its time is over."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.service_process import invoke, until
from tests.support.sparse_models import large_release
from tests.support.workers import Cluster, Fleet

HUGE = 200
NOBODY = "no live worker takes jobs of class cpu"


@pytest.fixture(scope="module")
def idle(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A service of which no worker ever lived."""
    root = tmp_path_factory.mktemp("idle")
    service = Fleet(root, cluster.database(), root / "releases")
    (root / "releases").mkdir()
    service.start()
    with service.client() as client:
        client.post("/families", json={"name": "idle"}).raise_for_status()
    yield service
    service.kill()


def add(fleet: Fleet, name: str, directory: Path, *options: str) -> tuple[int, str, str]:
    """`portllm release add`; its exit code and what it wrote."""
    done = invoke("release", "add", "idle", name, "--from", directory, *options, **fleet.variables())
    return done.exit_code, done.stdout, done.stderr


def test_a_job_without_a_worker_is_told_and_waiting_stops_in_time(idle: Fleet) -> None:
    """Said once; the job goes on when a worker comes."""
    directory = large_release(idle.root / "releases" / "v1", 1)
    code, out, err = add(idle, "v1", directory, "--wait", "--timeout", "2")
    assert (code, out) == (1, "")
    first, last = err.splitlines()
    job = first.partition(" ")[0]
    assert first == f"{job} waits: {NOBODY}. Start one with 'portllm worker --class cpu', or look at 'portllm workers'."
    assert last == (
        f"portllm: {job} is queued after 2 s, because {NOBODY}. It goes on without this command; look at it with "
        f"'portllm jobs show {job}'. [client.timeout]"
    )
    shown = invoke("jobs", "show", job, **idle.variables())
    assert shown.stdout.startswith(f"{job} is queued. No live worker takes jobs of class cpu;")
    assert json.loads(invoke("jobs", "show", job, "--json", **idle.variables()).stdout)["waiting_for"] == "cpu"
    listed = invoke("jobs", "ls", **idle.variables(), COLUMNS="250").stdout
    assert "No live worker takes jobs of class cpu" in listed
    code, out, _ = add(idle, "v1", directory, "--timeout", "0.5", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (1, "client.timeout")
    with idle.working(()):
        code, out, err = add(idle, "v1", directory, "--wait")
    assert (code, out) == (0, "idle/v1 is ready.\n")


def test_a_running_job_is_left_alone_when_time_is_over(idle: Fleet) -> None:
    """Nothing is said about workers."""
    directory = large_release(idle.root / "releases" / "huge", HUGE, shards=HUGE)
    with idle.working(()), idle.client() as client:
        code, _, err = add(idle, "huge", directory, "--wait", "--timeout", "2")
        assert code == 1
        assert err.count("\n") == 1
        assert "after 2 s. It goes on without this command" in err
        job = err.split()[1]
        assert client.get(f"/jobs/{job}").json()["state"] == "running"
        client.post(f"/jobs/{job}/cancel").raise_for_status()


def test_imports_stop_in_time_too(idle: Fleet) -> None:
    with idle.client() as client:
        client.put("/upstreams/far", json={"endpoint": "https://huggingface.co"}).raise_for_status()
        # A worker of an earlier test counts as live until its heartbeat is too old.
        until(lambda: not any(worker["alive"] for worker in client.get("/workers").json()["items"]), 60)
    done = invoke("patch", "import", "far:org/adapter@main", "--owner", "acme", "--timeout", "1", **idle.variables())
    assert done.exit_code == 1
    assert f"waits: {NOBODY}" in done.stderr
    assert done.stderr.rstrip().endswith("[client.timeout]")


def test_a_missing_worker_is_an_event_and_a_note_of_readiness(idle: Fleet) -> None:
    """Until one lives."""
    directory = large_release(idle.root / "releases" / "v2", 1)
    add(idle, "v2", directory)

    def reason() -> str | None:
        answer = httpx.get(f"{idle.url}/readyz")
        assert answer.status_code == 200
        part = answer.json()["parts"]["workers"]
        assert part["ok"] is True
        return str(part["reason"]) if part["reason"] else None

    assert until(reason, 30).startswith(f"{NOBODY}, since ")
    assert 'portllm_jobs_unserved{class="cpu"}' in httpx.get(f"{idle.url}/metrics").text
    with idle.working(()), idle.client() as client:
        until(lambda: reason() is None, 30)
        kinds = [e["kind"] for e in client.get("/events", params={"limit": 500}).json()["items"]]
        assert kinds.count("worker.missing") == kinds.count("worker.resolved") >= 1

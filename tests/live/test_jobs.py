"""Background jobs seen from outside: progress, cancel, and what their processes may know."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.blobs.locations import DirectorySink
from app.jobs.codec import encode
from app.jobs.spawn import ONE_THREAD
from app.services.catalog.ingestion import Ingestion
from app.services.catalog.orders import IngestOrder, RegisteredDirectory
from tests.support.live_fixtures import SECRETS
from tests.support.service_process import POLL_SECONDS, Service, invoke, open_files, until
from tests.support.sparse_models import large_release

HUGE_LAYERS = 200  # 5 GB of holes: far more than is read before the test ends it


@pytest.fixture(scope="module")
def huge(service: Service) -> Path:
    """A release that takes long to read and no space on disk."""
    return large_release(service.root / "releases" / "huge", HUGE_LAYERS, shards=HUGE_LAYERS)


@pytest.mark.parametrize("copy", [False, True])
def test_progress_then_cancel_then_again(service: Service, huge: Path, copy: bool) -> None:
    """Progress rises, cancel ends the process and rejects the release within seconds, and it can be registered again."""
    body = {"name": f"huge{copy}".lower(), "directory": str(huge), "copy": copy}
    with service.client() as client:
        client.post("/families", json={"name": "jobs"})
        release = client.post("/families/jobs/releases", json=body).raise_for_status().json()
        assert release["state"] == "ingesting"
        seen = _watch(client, release["job"])
        assert 0 < seen[0]["done"] < seen[1]["done"] < seen[1]["total"]
        assert seen[0]["total"] == seen[1]["total"] > 10 * 10**9  # every file once for its digest, every tensor once
        assert len(service.jobs()) == 1

        cancelled = client.post(f"/jobs/{release['job']}/cancel")
        assert cancelled.status_code == 202
        until(lambda: not service.jobs(), 5)
        assert client.get(f"/jobs/{release['job']}").json()["state"] == "cancelled"
        rejected = client.get(f"/families/jobs/releases/{body['name']}").json()
        assert (rejected["state"], rejected["problem"]["code"]) == ("rejected", "job.cancelled")
        again = client.post(f"/jobs/{release['job']}/cancel")
        assert (again.status_code, again.json()["code"]) == (409, "state.move")

        second = client.post("/families/jobs/releases", json=body).raise_for_status().json()
        assert (second["state"], second["id"]) == ("ingesting", release["id"])
        assert second["job"] != release["job"]
        _watch(client, second["job"])
        client.post(f"/jobs/{second['job']}/cancel").raise_for_status()
        until(lambda: not service.jobs(), 5)
        left = service.data / "blobs/staging" / release["id"]
        until(lambda: not left.exists(), 5)
    assert "Traceback" not in service.errors(), "a cancelled job is no error of the service"


def test_cancel_of_a_waiting_job(service: Service, huge: Path, models: Path) -> None:
    """A job that waits behind another one is cancelled without ever having had a process."""
    with service.client() as client:
        client.post("/families", json={"name": "queue"})
        first = client.post("/families/queue/releases", json={"name": "first", "directory": str(huge)}).json()
        until(service.jobs)
        waiting = client.post("/families/queue/releases", json={"name": "second", "directory": str(models / "v1")}).json()
        assert client.get(f"/jobs/{waiting['job']}").json()["state"] == "queued"
        client.post(f"/jobs/{waiting['job']}/cancel").raise_for_status()
        client.post(f"/jobs/{first['job']}/cancel").raise_for_status()
        assert client.get("/families/queue/releases/second").json()["problem"]["code"] == "job.cancelled"
        until(lambda: not service.jobs(), 5)
        third = client.post("/families/queue/releases", json={"name": "third", "directory": str(models / "v1")}).json()
        state = until(lambda: _state(client, "queue", "third") != "ingesting" and _state(client, "queue", "third"), 60)
        assert state == "ready", third
        assert _state(client, "queue", "second") == "rejected"


def test_a_higher_priority_goes_first(service: Service, huge: Path, models: Path) -> None:
    """A release that is registered after digests were asked for is read before they are computed."""
    env = service.variables()
    for arguments in (
        ("release", "add", "order", "v1", "--from", models / "v1", "--wait"),
        ("patch", "push", "order/tone", models / "patch", "--family", "order", "--trained-on", "v1"),
        ("port", "order/tone", "--to", "v1"),
    ):
        assert invoke(*arguments, **env).exit_code == 0
    with service.client() as client:
        after = client.get("/events", params={"limit": 500}).json()["cursor"]
        port = client.get("/ports", params={"patch": "order/tone"}).json()["items"][0]["id"]
        first = client.post("/families/order/releases", json={"name": "huge", "directory": str(huge)}).json()["job"]
        until(service.jobs)
        digest = client.post(f"/ports/{port}/digest").json()["job"]
        ingest = client.post("/families/order/releases", json={"name": "v2", "directory": str(models / "v2")}).json()["job"]
        assert [client.get(f"/jobs/{job}").json()["state"] for job in (digest, ingest)] == ["queued", "queued"]
        client.post(f"/jobs/{first}/cancel").raise_for_status()
        until(lambda: client.get(f"/jobs/{digest}").json()["state"] == "done")
        events = client.get("/events", params={"after": after, "limit": 500}).json()["items"]
    assert [e["subject"] for e in events if e["kind"] == "job.started"] == [first, ingest, digest]


def test_how_often_jobs_are_looked_for(service: Service) -> None:
    """As often as the service was told; its own word is what the engine keeps."""
    with closing(sqlite3.connect(f"file:{service.data / 'portllm.db'}?mode=ro", uri=True)) as database:
        assert database.execute("SELECT polling_interval_sec FROM queues WHERE name = 'cpu'").fetchall() == [
            (float(POLL_SECONDS),)
        ]


def test_children_know_no_secrets(service: Service, huge: Path) -> None:
    """The environment of a job's process: nothing of PortLLM's, no database, no keys; not the service's own variables."""
    assert SECRETS.items() <= service.variables_given.items()
    with service.client() as client:
        client.post("/families", json={"name": "secrets"})
        release = client.post("/families/secrets/releases", json={"name": "huge", "directory": str(huge)}).json()
        (child,) = until(service.jobs)
        variables = dict(part.split("=", 1) for part in Path(f"/proc/{child}/environ").read_text().split("\0") if part)
        command = Path(f"/proc/{child}/cmdline").read_text()
        files = open_files(child)
        client.post(f"/jobs/{release['job']}/cancel").raise_for_status()
    allowed = {
        "PATH", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "OMP_NUM_THREADS", "LD_LIBRARY_PATH", "PYTHONPATH", *ONE_THREAD,
    }  # fmt: skip
    assert not variables.keys() - allowed
    said = " ".join(variables.values()) + command
    assert "not-for-children" not in said
    assert "sqlite" not in said
    assert "portllm.db" not in said
    assert not [name for name in files if "portllm.db" in name or name.endswith("/lock")], "the database stays with the service"


def test_a_child_ends_when_nobody_waits_for_it(huge: Path, tmp_path: Path) -> None:
    """Its standard input ends with its parent: it stops at once, though its output could still be written."""
    source = RegisteredDirectory(str(huge), (str(huge),))
    order = encode(IngestOrder("x", source, DirectorySink(str(tmp_path)), copy=False))
    child = subprocess.Popen([sys.executable, "-m", "app.jobs.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps({"task": Ingestion.task, "order": order}) + "\n")
        child.stdin.flush()
        assert "progress" in json.loads(child.stdout.readline())
        child.stdin.close()
        assert child.wait(10) == 3
    finally:
        child.kill()
        child.wait()


def _watch(client: httpx.Client, job: str) -> list[dict[str, Any]]:
    """The first two different reports of progress."""
    seen: list[dict[str, Any]] = []

    def two() -> bool:
        """two reports of progress"""
        status = client.get(f"/jobs/{job}").raise_for_status().json()
        assert status["state"] in ("queued", "running"), status
        progress = status["progress"]
        if progress and progress["done"] and (not seen or progress["done"] > seen[-1]["done"]):
            seen.append(progress)
        return len(seen) == 2

    until(two)
    return seen


def _state(client: httpx.Client, family: str, release: str) -> str:
    return str(client.get(f"/families/{family}/releases/{release}").json()["state"])

"""Purging a version that workers are busy with: addresses that were signed, downloads that began, jobs of the real engine."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.registry import refused
from tests.support.service_process import invoke, until
from tests.support.sparse_models import large_patch, large_release
from tests.support.workers import Cluster, Fleet, Worker

LAYERS = 40  # 1 GB of holes: seconds to read
SHARD = "model.safetensors"


@pytest.fixture(scope="module")
def fleet(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A service that reads no merged model itself."""
    root = tmp_path_factory.mktemp("purges")
    (root / "releases").mkdir()
    service = Fleet(root, cluster.database(), root / "releases", PORTLLM_MERGED_READS="0")
    service.start()
    yield service
    service.kill()


@pytest.fixture(scope="module")
def client(fleet: Fleet) -> Iterator[httpx.Client]:
    with fleet.client() as http:
        http.post("/families", json={"name": "long"}).raise_for_status()
        yield http


@pytest.fixture(scope="module")
def worker(fleet: Fleet, client: httpx.Client) -> Iterator[Worker]:
    """A worker that listens, once the release is ready."""
    with fleet.working(("--listen", "127.0.0.1:0"), PORTLLM_MERGED_READS="4") as (only,):
        directory = large_release(fleet.root / "releases" / "v1", LAYERS)
        client.post("/families/long/releases", json={"name": "v1", "directory": str(directory)}).raise_for_status()
        until(lambda: client.get("/families/long/releases/v1").json()["state"] == "ready", 120)
        yield only


@pytest.fixture
def port(fleet: Fleet, client: httpx.Client, worker: Worker, tmp_path: Path) -> dict[str, Any]:
    """A ready port of a version that nobody published before."""
    seed = time.monotonic_ns() % 10**6
    name = f"acme/p{seed}"
    patch = large_patch(tmp_path / "patch", LAYERS, 1, seed)
    pushed = invoke("patch", "push", name, patch, "--family", "long", "--trained-on", "v1", **fleet.variables())
    assert pushed.exit_code == 0, pushed.output
    made = client.post("/ports", json={"patch": name, "release": "v1"}).raise_for_status().json()
    assert made["state"] == "ready", made
    return dict(made)


def purge(client: httpx.Client, port: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(f"/patches/{port['patch']}/versions/1/purge", json={"reason": "asked"})
    return dict(answer.raise_for_status().json())


def signed(client: httpx.Client, port: dict[str, Any]) -> str:
    """An address of the worker's, which is good for minutes and asks for no token."""
    return str(client.get(f"/ports/{port['id']}/files/{SHARD}").headers["Location"])


def test_an_address_that_was_signed_before(client: httpx.Client, port: dict[str, Any]) -> None:
    """The worker asks whether there is anything to read, each time."""
    address = signed(client, port)
    first = httpx.get(address, headers={"Range": "bytes=0-99"})
    assert (first.status_code, len(first.content)) == (206, 100)
    assert purge(client, port)["erasure"]["state"] == "done"
    refused(httpx.get(address, headers={"Range": "bytes=0-99"}), 410, "version.purged")
    refused(httpx.get(address, headers={"If-None-Match": first.headers["ETag"]}), 410, "version.purged")
    assert httpx.head(address).status_code == 410
    refused(client.get(f"/ports/{port['id']}/files/{SHARD}"), 410, "version.purged")


def test_a_download_that_began(client: httpx.Client, port: dict[str, Any]) -> None:
    """It breaks off on the worker within seconds, though nobody told it."""
    with httpx.stream("GET", signed(client, port), timeout=60) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_raw()
        got = len(next(pieces))
        purge(client, port)
        time.sleep(7)  # what was computed before lies in buffers
        with suppress(httpx.HTTPError):
            for piece in pieces:
                got += len(piece)
        assert 0 < got < int(answer.headers["Content-Length"]) // 2


@pytest.mark.parametrize("withdrawn", ["grant", "token"])
def test_download_breaks_off_when_the_right_to_it_is_withdrawn(
    client: httpx.Client, port: dict[str, Any], withdrawn: str
) -> None:
    """On the worker, within seconds; the address that was signed for it is refused from then on."""
    client.put("/families/long/grants/acme", json={}).raise_for_status()
    made = client.post("/tokens", json={"owner": "acme", "scopes": ["read"]}).raise_for_status().json()
    asked = {"Authorization": f"Bearer {made['token']}"}
    address = client.get(f"/ports/{port['id']}/files/{SHARD}", headers=asked).headers["Location"]
    with httpx.stream("GET", address, timeout=60) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_raw()
        got = len(next(pieces))
        if withdrawn == "grant":
            client.delete("/families/long/grants/acme").raise_for_status()
        else:
            client.delete(f"/tokens/{made['id']}").raise_for_status()
        time.sleep(7)  # what was computed before lies in buffers
        with suppress(httpx.HTTPError):
            for piece in pieces:
                got += len(piece)
        assert 0 < got < int(answer.headers["Content-Length"]) // 2
    again = httpx.get(address, headers={"Range": "bytes=0-99"})
    refused(again, *((404, "family.unknown") if withdrawn == "grant" else (401, "token.missing")))


def test_a_job_that_runs(client: httpx.Client, worker: Worker, port: dict[str, Any]) -> None:
    """The engine cancels it wherever it runs: its process ends, nothing is recorded, and it cannot be started again."""
    job = client.post(f"/ports/{port['id']}/digest").raise_for_status().json()["job"]
    until(worker.jobs)
    until(lambda: client.get(f"/jobs/{job}").json()["state"] == "running")
    assert purge(client, port)["state"] == "purged"
    until(lambda: not worker.jobs(), 15)
    assert client.get(f"/jobs/{job}").json()["state"] == "cancelled"
    assert client.get(f"/ports/{port['id']}").json()["state"] == "purged"
    refused(client.post(f"/jobs/{job}/retry"), 410, "version.purged")
    refused(client.post(f"/ports/{port['id']}/digest"), 410, "version.purged")
    until(lambda: client.get(f"/patches/{port['patch']}/versions/1").json()["erasure"]["state"] == "done", 30)
    kinds = [e["kind"] for e in client.get("/events", params={"limit": 500}).json()["items"] if e["subject"] == job]
    assert "job.done" not in kinds
    assert worker.process.poll() is None


def test_a_job_that_was_just_asked_for(client: httpx.Client, worker: Worker, port: dict[str, Any]) -> None:
    """Of a version that is purged before, or just when, a worker takes it: whoever was first, it is cancelled."""
    job = client.post(f"/ports/{port['id']}/digest").raise_for_status().json()["job"]
    purge(client, port)
    until(lambda: client.get(f"/jobs/{job}").json()["state"] == "cancelled", 30)
    until(lambda: not worker.jobs(), 15)
    assert client.get(f"/ports/{port['id']}").json()["state"] == "purged"

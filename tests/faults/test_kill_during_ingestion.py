"""kill -9 of the service while it reads a release: afterwards the release becomes ready by itself, once."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.rounds import ROUNDS, check_after_restart, digest_of, kill_at, manifest_files, moments, staged
from tests.live.models import large_release
from tests.live.service import Service, until

LAYERS = {False: 12, True: 8}  # 302 MB of holes, or 201 MB to copy; read twice


@pytest.mark.parametrize("copy", [False, True], ids=["reference", "copy"])
def test_an_ingestion_survives_kill_9(copy: bool, tmp_path: Path) -> None:
    """At random moments from the request to the end: never a release without its bytes, and no process left behind."""
    (tmp_path / "models").mkdir()
    service = Service(tmp_path, tmp_path / "models").start()
    verified: dict[Path, int] = {}
    try:
        with service.client() as client:
            client.post("/families", json={"name": "soak"}).raise_for_status()
            seconds = sum(_undisturbed(client, _release(tmp_path, name, copy), copy) for name in ("cold", "warm")) / 2
        for number, moment in enumerate(moments(seconds, seed=copy), 1):
            name = f"r{number}"
            hit = _round(service, _release(tmp_path, name, copy), copy, moment)
            check_after_restart(service, verified)
            with service.client() as client:
                began = time.monotonic()
                row = _ready(client, name)
                _check_ready(service, client, row)
            check_after_restart(service, verified)
            assert not service.jobs(), "no process is left behind"
            print(f"round {number}/{ROUNDS}: killed after {moment:.2f} of {seconds:.2f} s, {hit}; "
                  f"ready {time.monotonic() - began:.1f} s after the restart")  # fmt: skip
    finally:
        service.kill()
    shutil.rmtree(tmp_path)  # gigabytes, after many rounds


def _round(service: Service, directory: Path, copy: bool, moment: float) -> str:
    """Registers a release, kills the service at a moment, starts it again; says what was hit."""
    began = time.monotonic()
    with service.client() as client:
        _register(client, directory, copy)
    children = kill_at(service, moment, began)
    progress = sum(path.stat().st_size for path in staged(service, "."))
    service.start()
    with service.client() as client:
        state = client.get(f"/families/soak/releases/{directory.name}").raise_for_status().json()["state"]
    if not children:
        return f"without a process of its job, {state} after the restart"
    return f"while a process read it ({progress / 1e6:.0f} MB staged), {state} after the restart"


def _undisturbed(client: httpx.Client, directory: Path, copy: bool) -> float:
    """How long an ingestion takes, in seconds."""
    began = time.monotonic()
    _register(client, directory, copy)
    _ready(client, directory.name)
    return time.monotonic() - began


def _release(root: Path, name: str, copy: bool) -> Path:
    """A release whose every file has bytes of its own, so that nothing is there already from the round before."""
    directory = large_release(root / "models" / name, LAYERS[copy], shards=LAYERS[copy])
    for path in directory.iterdir():
        if path.suffix == ".safetensors":
            with path.open("r+b") as file:
                file.seek(-64, 2)
                file.write(name.encode() * 2)
        else:
            path.write_text(json.dumps(json.loads(path.read_text()) | {"round": name}))
    return directory


def _register(client: httpx.Client, directory: Path, copy: bool) -> None:
    body = {"name": directory.name, "directory": str(directory), "copy": copy}
    client.post("/families/soak/releases", json=body).raise_for_status()


def _ready(client: httpx.Client, name: str) -> dict[str, Any]:
    def ready() -> dict[str, Any] | None:
        """the release to be ready"""
        row: dict[str, Any] = client.get(f"/families/soak/releases/{name}").raise_for_status().json()
        assert row["state"] != "rejected", row
        return row if row["state"] == "ready" else None

    row = until(ready, 120)
    assert row is not None
    return row


def _check_ready(service: Service, client: httpx.Client, row: dict[str, Any]) -> None:
    """Its manifest names the true digests, its job is done, it was announced once, and nothing is staged any more."""
    source = Path(row["source"])
    assert manifest_files(service, row["manifest"]) == {p.name: digest_of(p) for p in source.iterdir()}
    until(lambda: client.get(f"/jobs/{row['job']}").json()["state"] == "done", 10)
    events = client.get("/events", params={"limit": 500}).json()["items"]
    assert [e["kind"] for e in events if e["subject"] == f"soak/{row['name']}"] == ["release.registered", "release.ready"]
    assert not staged(service, row["id"])
    assert not (service.data / "blobs/staging" / row["id"]).exists()

"""kill -9 of the service while a patch is uploaded and published: it is a version with all its bytes, or it goes on."""

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from app.cli.client import Client
from app.cli.upload import push_patch
from tests.faults.rounds import ROUNDS, check_after_restart, digest_of, kill_at, moments, staged
from tests.live.models import large_patch, large_release
from tests.live.service import Service, invoke

LAYERS, RANK = 2, 1024  # 63 MB of factors for a base of 50 MB
WEIGHTS = "adapter_model.safetensors"
CHUNK = 2**20


def test_an_upload_survives_kill_9(tmp_path: Path) -> None:
    """At random moments from the announcement to the answer: resumed from where it was, or started again, it is one version."""
    large_release(tmp_path / "models/v1", LAYERS)
    service = Service(tmp_path, tmp_path / "models").start()
    verified: dict[Path, int] = {}
    try:
        added = invoke("release", "add", "soak", "v1", "--from", tmp_path / "models/v1", "--wait", **service.variables())
        assert added.exit_code == 0, added.output
        seconds = sum(_undisturbed(service, tmp_path / name, number) for number, name in enumerate(("cold", "warm"), 1)) / 2
        for number, moment in enumerate(moments(seconds, seed=7), 1):
            patch = large_patch(tmp_path / f"p{number}", LAYERS, RANK, seed=100 + number)
            upload = _Upload(service, patch)
            began = time.monotonic()
            upload.start()
            kill_at(service, moment, began)
            upload.join(60)
            service.start()
            check_after_restart(service, verified)
            hit = _finish(service, upload, again=number % 2 == 0)
            check_after_restart(service, verified)
            print(f"round {number}/{ROUNDS}: killed after {moment:.2f} of {seconds:.2f} s, client {upload.step}; {hit}")
    finally:
        service.kill()
    shutil.rmtree(tmp_path)  # gigabytes, after many rounds


class _Upload(threading.Thread):
    """One upload by plain requests, which ends with the service.

    Attributes:
        step: what the client was doing.
        id: of the upload, once it was announced.
    """

    def __init__(self, service: Service, patch: Path) -> None:
        super().__init__(daemon=True)
        self._service, self._patch = service, patch
        self.name, self.files = patch.name, [_announced(path) for path in sorted(patch.iterdir())]
        self.step, self.id = "had asked nothing", ""

    def run(self) -> None:
        try:
            with self._service.client() as client:
                self._send(client)
        except httpx.TransportError:
            pass  # it was killed

    def _send(self, client: httpx.Client) -> None:
        self.step = "announced"
        client.post("/patches", json={"owner": "acme", "name": self.name, "family": "soak"}).raise_for_status()
        announced = {"trained_on": "v1", "files": self.files}
        draft = client.post(f"/patches/acme/{self.name}/versions", json=announced).raise_for_status()
        self.id = draft.json()["id"]
        for upload in draft.json()["uploads"]:
            self.step = f"sent {upload['path']}"
            put(client, upload["url"], self._patch / upload["path"], 0)
        self.step = "waited for the publication"
        client.post(f"/uploads/{self.id}/publish").raise_for_status()
        self.step = "had its answer"


def _finish(service: Service, upload: _Upload, again: bool) -> str:
    """Brings an interrupted upload to its end, checks the version, and says what was found after the restart."""
    patch = service.root / upload.name
    with service.client() as client:
        found = client.get(f"/uploads/{upload.id}") if upload.id else None
        if found is not None and found.status_code == 200:
            received = {u["path"]: u["received"] for u in found.json()["uploads"]}
            told = f"a draft with {sum(received.values()) / 1e6:.0f} MB"
        else:
            told = "published" if _versions(client, upload.name) else "nothing"
            assert told == "published" or upload.step in ("had asked nothing", "announced"), "an upload that was answered is lost"
        if told == "published" or again or not upload.id:
            told += ", sent again"
            row: dict[str, Any] = push_patch(Client(service.url, service.token), "acme", upload.name, patch, "soak", "v1")
        else:
            told += ", resumed"
            row = _resume(client, upload, patch)
        versions = _versions(client, upload.name)
    assert [(v["number"], v["id"]) for v in versions] == [(1, row["id"])]
    assert {f["path"]: f["sha256"] for f in versions[0]["files"]} == {f["path"]: f["sha256"] for f in upload.files}
    assert not staged(service, row["id"]), "what was published is staged no more"
    return told


def _resume(client: httpx.Client, upload: _Upload, patch: Path) -> dict[str, Any]:
    """Goes on with an upload as the protocol says: HEAD tells where, PATCH sends the rest, publish ends it."""
    for file in upload.files:
        url = f"/uploads/{upload.id}/files/{file['path']}"
        offset = int(client.head(url).raise_for_status().headers["Upload-Offset"])
        assert 0 <= offset <= file["size"]
        if offset < file["size"]:
            put(client, url, patch / file["path"], offset)
    published: dict[str, Any] = client.post(f"/uploads/{upload.id}/publish").raise_for_status().json()
    return published


def put(client: httpx.Client, url: str, path: Path, offset: int) -> None:
    """Sends a file from an offset on."""

    def rest() -> Iterator[bytes]:
        with path.open("rb") as file:
            file.seek(offset)
            while chunk := file.read(CHUNK):
                yield chunk

    headers = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
    client.patch(url.removeprefix("/api/v1"), content=rest(), headers=headers).raise_for_status()


def _undisturbed(service: Service, patch: Path, seed: int) -> float:
    """How long an upload takes, in seconds."""
    upload = _Upload(service, large_patch(patch, LAYERS, RANK, seed))
    began = time.monotonic()
    upload.run()
    assert upload.step == "had its answer"
    return time.monotonic() - began


def _versions(client: httpx.Client, name: str) -> list[dict[str, Any]]:
    answer = client.get(f"/patches/acme/{name}/versions")
    return list(answer.json()["items"]) if answer.status_code == 200 else []


def _announced(path: Path) -> dict[str, Any]:
    return {"path": path.name, "size": path.stat().st_size, "sha256": digest_of(path)}

"""Merged files over the wire: bounded memory, slow clients, clients that go away."""

import hashlib
import http.client
import json
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.service_process import Service, invoke, until
from tests.support.sparse_models import large_patch, large_release

LAYERS, PLACES = 13, 8
MEGABYTE = 10**6


@dataclass(frozen=True)
class Download:
    """The one shard of a merged model, computed on every read."""

    service: Service
    path: str
    size: int

    def connect(self, headers: str = "", buffer: int = 2**16) -> socket.socket:
        """Asks for the shard and reads nothing yet; a small buffer makes a client that cannot run ahead."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.settimeout(60)
        url = httpx.URL(self.service.url)
        connection.connect((url.host, url.port))
        request = f"GET {self.path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.service.token}\r\n{headers}\r\n"
        connection.sendall(request.encode())
        return connection


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Download]:
    """A service of its own (peak memory belongs to a process) with a merged model of 327 MB in one file."""
    root = tmp_path_factory.mktemp("streaming")
    large_release(root / "models/v1", LAYERS)
    large_patch(root / "models/patch", LAYERS, 8, 1)
    places = {"PORTLLM_MERGED_READS": str(PLACES), "PORTLLM_MERGED_READS_PER_OWNER": str(PLACES)}
    service = Service(root, root / "models", **places).start()
    try:
        commands: list[list[str | Path]] = [
            ["release", "add", "big", "v1", "--from", root / "models/v1", "--wait"],
            ["patch", "push", "big/patch", root / "models/patch", "--family", "big", "--trained-on", "v1"],
            ["port", "big/patch", "--to", "v1", "--json"],
        ]
        for command in commands:
            done = invoke(*command, **service.variables())
            assert done.exit_code == 0, done.output
        port = json.loads(done.stdout)["id"]
        with service.client() as client:
            listing = client.get(f"/ports/{port}/files").json()["files"]
        (shard,) = (file for file in listing if file["path"] == "model.safetensors")
        assert shard["computed"]
        assert shard["size"] > 300 * MEGABYTE
        yield Download(service, f"/api/v1/ports/{port}/files/model.safetensors", shard["size"])
    finally:
        service.kill()


def test_memory_stays_bounded(download: Download) -> None:
    """A whole shard of over 300 MB raises the peak by less than 150 MB over the warm, idle service."""
    _read(download, stop=MEGABYTE)  # torch is loaded and has computed a first piece
    idle = download.service.memory("VmRSS")
    Path(f"/proc/{download.service.pid}/clear_refs").write_text("5")  # forgets the peak so far
    assert download.service.memory("VmHWM") < idle + 20 * MEGABYTE
    _read(download)
    growth = download.service.memory("VmHWM") - idle
    print(f"peak {growth / MEGABYTE:.0f} MB over idle for {download.size / MEGABYTE:.0f} MB")
    assert growth < 150 * MEGABYTE


def test_slow_client_gets_the_same_bytes_and_blocks_nobody(download: Download) -> None:
    """One that reads little by little for seconds, while others are served at full speed."""
    before = download.service.memory("VmRSS")
    with download.connect(buffer=4096) as slow:
        answer = http.client.HTTPResponse(slow)
        answer.begin()
        digest, read, deadline = hashlib.sha256(), 0, time.monotonic() + 3
        with ThreadPoolExecutor() as pool:
            fast = pool.submit(_read, download)
            while time.monotonic() < deadline:
                part = answer.read(4096)
                digest.update(part)
                read += len(part)
                time.sleep(0.01)  # the slowness under test
            assert read < download.size / 10
            asked = time.monotonic()
            assert httpx.get(f"{download.service.url}/healthz").status_code == 200
            assert time.monotonic() - asked < 5
            fast_digest = fast.result()
        assert download.service.memory("VmRSS") - before < 150 * MEGABYTE, "what a slow client has not read must not pile up"
        while part := answer.read(2**20):
            digest.update(part)
    assert digest.hexdigest() == fast_digest


def test_clients_that_go_away_leave_nothing_open(download: Download) -> None:
    """50 downloads broken off, at every stage: no file stays open and no place stays taken."""
    _read(download, stop=MEGABYTE)
    before = download.service.open_files()
    for number in range(50):
        connection = _reader(download) if number % 5 else download.connect()  # every fifth leaves before the first byte
        for _ in range(number % 5 - 1):
            connection.recv(2**20, socket.MSG_WAITALL)
        if number % 2:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a farewell
        connection.close()
        if number % 5 == 0:
            until(lambda: _free(download), 20)
    until(lambda: not _weights(download), 20)
    assert len(download.service.open_files()) <= len(before) + 2
    assert _free(download), "every place is free again"


def test_too_many_readers_are_told_to_come_back(download: Download) -> None:
    """Past the last place the answer is 503 with Retry-After; one reader less, and there is a place."""
    with ExitStack() as stack:
        readers = [stack.enter_context(_reader(download)) for _ in range(PLACES)]
        headers = {"Authorization": f"Bearer {download.service.token}"}
        refused = httpx.get(download.service.url + download.path, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (503, "server.busy")
        assert int(refused.headers["Retry-After"]) > 0
        readers[0].close()
        until(lambda: _status(download) == 206, 20)


def _reader(download: Download) -> socket.socket:
    """A download that has begun. A place comes back a moment after its reader had the last byte, so this asks again."""

    def begun() -> socket.socket | None:
        connection = download.connect()
        if b" 200 " in connection.recv(100):
            return connection
        connection.close()
        return None

    return until(begun, 20) or socket.socket()


def _read(download: Download, stop: int | None = None) -> str:
    """sha256 (hex) of the first bytes, or of all."""
    headers = {"Authorization": f"Bearer {download.service.token}"} | ({"Range": f"bytes=0-{stop - 1}"} if stop else {})
    digest, read = hashlib.sha256(), 0
    with httpx.stream("GET", download.service.url + download.path, headers=headers, timeout=60) as answer:
        assert answer.is_success
        for part in answer.iter_raw(2**20):
            digest.update(part)
            read += len(part)
    assert read == (stop or download.size)
    return digest.hexdigest()


def _status(download: Download) -> int:
    headers = {"Authorization": f"Bearer {download.service.token}", "Range": "bytes=0-0"}
    return httpx.get(download.service.url + download.path, headers=headers, timeout=60).status_code


def _weights(download: Download) -> list[str]:
    """files of the release or the patch that the service holds open"""
    return [name for name in download.service.open_files() if name.endswith("model.safetensors") or "/blobs/" in name]


def _free(download: Download) -> bool:
    """all places are free"""
    with ExitStack() as stack:
        readers = [stack.enter_context(download.connect()) for _ in range(PLACES)]
        return all(b" 200 " in reader.recv(100) for reader in readers)

"""Places for merged reads: when all are taken the answer is 503, and every place is given back, however a read ends."""

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from app.domain.errors import DomainError
from app.services import read_slots
from tests.support.fixtures import Models
from tests.support.http_server import serving
from tests.support.models import make_base
from tests.support.registry import Service, refused

PLACES = 2
BIG = 64 * 2**20
SHARD = "model.safetensors"  # 50 MB, computed
BEGINNING = {"Range": "bytes=0-99"}


@pytest.fixture(scope="module")
def busy(registries: Callable[..., Service], models: Models) -> Iterator[tuple[Service, str, str]]:
    """A registry with two places, behind a server; a port with files too large for the sockets' buffers to swallow."""
    with registries(merged_reads=PLACES, merged_reads_per_owner=PLACES).running() as service, serving(service) as url:
        service.admin.family("llama")
        directory = make_base(service.place / "v1", vocab_size=200_000)
        for name in ("notes.txt", "to-be-shrunk.txt"):
            with (directory / name).open("wb") as file:
                file.truncate(BIG)
        (directory / "to-be-removed.txt").write_text("x")
        service.release("llama", "v1", directory)
        service.admin.publish(service.admin.patch("acme", "tone"), models.patch)
        port = service.admin.port("acme/tone", "v1")
        assert port["state"] == "ready", port
        yield service, url, f"/api/v1/ports/{port['id']}/files"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No place is reclaimed, however slow this machine is, unless a test says so."""
    monkeypatch.setattr(read_slots, "IDLE_SECONDS", 600.0)


@pytest.fixture(autouse=True)
def settled(busy: tuple[Service, str, str]) -> None:
    """Clients that an earlier test left behind may be served late: a test begins when all places were free for a while."""
    free = 0

    def is_quiet() -> bool:
        nonlocal free
        free = free + 1 if _are_free(busy[0]) else 0
        return free > 20

    until(is_quiet)


def slow_reader(service: Service, url: str, path: str) -> socket.socket:
    """A client that has read the headers and a few bytes, and stops."""
    host, port = str(urlsplit(url).hostname), int(urlsplit(url).port or 0)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((host, port))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.admin.token}\r\n\r\n".encode())
    assert client.recv(15) == b"HTTP/1.1 200 OK"
    return client


def until(done: Callable[[], bool], seconds: float = 10) -> None:
    """Waits for something that a server does in its own time."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_read_without_a_free_slot_is_503_until_one_is_released(busy: tuple[Service, str, str]) -> None:
    """503 with Retry-After while two clients hold both places; a client that goes away gives its place back."""
    service, url, files = busy
    shard = f"{files}/{SHARD}"
    for _ in range(2 * PLACES):
        with ExitStack() as stack:
            for _ in range(PLACES):
                stack.enter_context(slow_reader(service, url, shard))
            answer = service.admin.get(shard, BEGINNING)
            refused(answer, 503, "server.busy")
            assert int(answer.headers["Retry-After"]) > 0
            # Neither a list nor HEAD needs a place, nor a file that is the release's own.
            assert service.admin.get(files).status_code == 200
            assert service.admin.head(shard).status_code == 200
            assert service.admin.get(shard, {"If-None-Match": "*"}).status_code == 304
            assert service.admin.get(f"{files}/config.json").status_code == 200
        until(lambda: service.admin.get(shard, BEGINNING).status_code == 206)
    until(lambda: _are_free(service))


def test_slow_readers_of_carried_files_take_no_place(busy: tuple[Service, str, str]) -> None:
    service, url, files = busy
    with ExitStack() as stack:
        for _ in range(PLACES + 1):
            stack.enter_context(slow_reader(service, url, f"{files}/notes.txt"))
        assert _are_free(service)


def test_slow_reader_loses_its_place_to_another_and_goes_on_later(
    busy: tuple[Service, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clients that take nothing keep nobody out; one that goes on reading gets every byte."""
    service, url, files = busy
    whole = service.admin.get(f"{files}/{SHARD}").content
    with slow_reader(service, url, f"{files}/{SHARD}") as slow, slow_reader(service, url, f"{files}/{SHARD}"):
        refused(service.admin.get(f"{files}/{SHARD}", BEGINNING), 503, "server.busy")
        monkeypatch.setattr(read_slots, "IDLE_SECONDS", 0.1)
        with ExitStack() as others:
            for _ in range(PLACES):
                until(lambda: _takes(service, others))
            refused(service.admin.get(f"{files}/{SHARD}", BEGINNING), 503, "server.busy")
        monkeypatch.setattr(read_slots, "IDLE_SECONDS", 600.0)
        assert _rest(slow, len(whole)) == whole


def test_slow_reader_that_goes_on_waits_for_a_place(busy: tuple[Service, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits while others have the places, and goes on when one comes back."""
    service, url, files = busy
    whole = service.admin.get(f"{files}/{SHARD}").content
    with slow_reader(service, url, f"{files}/{SHARD}") as slow, ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(read_slots, "IDLE_SECONDS", 0.0)
        with ExitStack() as others:
            for _ in range(PLACES):
                until(lambda: _takes(service, others))
            going_on = pool.submit(_rest, slow, len(whole))
            until(lambda: service.runtime.merged_reads.waiting() == 1)
            assert not going_on.done()
        assert going_on.result(60) == whole


def test_client_that_never_reads_releases_its_slot(busy: tuple[Service, str, str]) -> None:
    """A client that is gone before the first byte gives its place back too."""
    service, url, files = busy
    host, port = str(urlsplit(url).hostname), int(urlsplit(url).port or 0)
    for path in [f"{files}/notes.txt", f"{files}/{SHARD}"] * 4:
        with socket.create_connection((host, port)) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.admin.token}\r\n\r\n".encode())
    until(lambda: service.admin.get(f"{files}/{SHARD}", BEGINNING).status_code == 206)
    until(lambda: _are_free(service))


def test_answer_that_cannot_begin_releases_its_slot(busy: tuple[Service, str, str]) -> None:
    """The connection breaks before the first header: the read was prepared, and what it holds is given back."""
    service, _, files = busy
    headers = [(b"authorization", f"Bearer {service.admin.token}".encode())]
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "GET",
        "headers": headers, "path": f"{files}/{SHARD}", "raw_path": b"", "query_string": b"", "scheme": "http",
        "server": ("x", 1), "client": ("x", 2),
    }  # fmt: skip

    async def receive() -> dict[str, object]:
        return {"type": "http.disconnect"}

    async def send(_: object) -> None:
        raise OSError(errno.EPIPE, "Broken pipe")

    for _ in range(PLACES + 1):
        with suppress(Exception):  # the server's to log, not ours to answer
            asyncio.run(service.app({**scope, "state": {}}, receive, send))
        until(lambda: _are_free(service))  # clients of earlier tests may be served just now


def test_failed_read_releases_its_slot(busy: tuple[Service, str, str]) -> None:
    """A read that is refused at its start, and one that ends well, hold nothing."""
    service, _, files = busy
    for _ in range(PLACES + 1):
        assert service.admin.get(f"{files}/{SHARD}", BEGINNING).status_code == 206
        refused(service.admin.get(f"{files}/nope"), 404, "output.unknown_file")
        refused(service.admin.get(f"{files}/{SHARD}", {"Range": "bytes=9999999999-"}), 416, "request.range")
    (service.place / "v1" / "to-be-removed.txt").unlink()
    for _ in range(PLACES + 1):
        refused(service.admin.get(f"{files}/to-be-removed.txt"), 409, "checkpoint.changed")
    until(lambda: _are_free(service))


def test_file_that_shrinks_while_it_is_read_breaks_off_the_answer(busy: tuple[Service, str, str]) -> None:
    """What cannot be finished is broken off, so that no client takes a part for the whole; the changed file is not read again,
    with its size and times restored neither.
    """
    service, url, files = busy
    shrinks = service.place / "v1" / "to-be-shrunk.txt"
    before = shrinks.stat()
    with slow_reader(service, url, f"{files}/to-be-shrunk.txt") as client:
        with shrinks.open("r+b") as file:
            file.truncate(1000)
        client.settimeout(10)
        received = 0
        while data := _receive(client):
            received += len(data)
    assert received < BIG
    with shrinks.open("r+b") as file:
        file.truncate(BIG)
    os.utime(shrinks, ns=(before.st_atime_ns, before.st_mtime_ns))
    refused(service.admin.get(f"{files}/to-be-shrunk.txt"), 409, "checkpoint.changed")


def _receive(client: socket.socket) -> bytes:
    with suppress(ConnectionError):
        return client.recv(2**20)
    return b""


def test_files_are_closed_when_the_client_is_gone(busy: tuple[Service, str, str]) -> None:
    """Files that a read opened are closed when its client is gone."""
    service, url, files = busy

    def opened() -> int:
        count = 0
        for link in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile, as that of the listing itself
                count += link.readlink().name == "notes.txt"
        return count

    clients = [slow_reader(service, url, f"{files}/notes.txt") for _ in range(PLACES)]
    until(lambda: opened() == PLACES)
    for client in clients:
        client.close()
    until(lambda: opened() == 0)


def _takes(service: Service, stack: ExitStack) -> bool:
    with suppress(DomainError):
        stack.enter_context(service.runtime.merged_reads.hold("acme"))
        return True
    return False


def _rest(client: socket.socket, size: int) -> bytes:
    """The body of an answer of which the first line was read."""
    client.settimeout(60)
    received = bytearray()
    while b"\r\n\r\n" not in received:
        received += client.recv(1000)
    body = received.partition(b"\r\n\r\n")[2]
    while len(body) < size:
        body += client.recv(2**20)
    return bytes(body)


def _are_free(service: Service) -> bool:
    try:
        with ExitStack() as stack:
            for _ in range(PLACES):
                stack.enter_context(service.runtime.merged_reads.hold("acme"))
    except DomainError:
        return False
    return True

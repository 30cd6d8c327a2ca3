"""Requests as bytes on a socket: lengths that disagree, heads without end, lines that pretend to be others."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from select import select
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.cli.protocol import BoundedProtocol
from tests.support.fuzz_world import CONFIG, World
from tests.support.hostile import exchange
from tests.support.http_server import serving

HOST = b"Host: registry\r\nConnection: close\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\n" + HOST
Speak = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def address(attacked: World) -> Iterator[tuple[str, int]]:
    """The service behind the server that it ships with."""
    with serving(attacked.service) as url:
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        yield parts.hostname, parts.port


@pytest.fixture
def speak(address: tuple[str, int]) -> Speak:
    """Sends bytes over a connection of their own, and returns all that is answered."""
    return lambda sent: exchange(address, sent)


@pytest.fixture
def post(world: World) -> bytes:
    return b"POST /api/v1/families HTTP/1.1\r\nContent-Type: application/json\r\n" + HOST + authorization(world)


def authorization(world: World) -> bytes:
    return f"Authorization: Bearer {world.service.admin.token}\r\n".encode()


def statuses(answer: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


INNER = b"GET /api/v1/whoami HTTP/1.1\r\nHost: registry\r\n\r\n"


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", b"Content-Length: 2\r\nContent-Length: 60\r\n\r\n{}" + INNER,
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER,
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + INNER,
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + INNER, b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + INNER,
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + INNER, b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + INNER,
        b"Content-Length: +2\r\n\r\n{}" + INNER, b"Content-Length: -2\r\n\r\n{}", b"Content-Length: 2, 2\r\n\r\n{}",
        b"Content-Length: 0x2\r\n\r\n{}", b"Content-Length: 99999999999999999999\r\n\r\n{}",
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}",
        b"Transfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n" + INNER, b"X: a\rContent-Length: 2\r\n\r\n{}", b"X: a\0b\r\n\r\n",
        b"Content-Length: 2\r\nX: a\r\n b\r\n\r\n{}", b" Content-Length: 2\r\n\r\n{}", b"Content-Length\r\n\r\n{}",
    ],
)  # fmt: skip
def test_ambiguous_request_is_refused_and_its_connection_closed(speak: Speak, post: bytes, rest: bytes) -> None:
    """Whatever a proxy before us and we could read differently is refused, and the connection with it: nothing gets behind."""
    answer = speak(post + rest)
    assert statuses(answer) == [400]
    assert b"connection: close" in answer.lower()


def test_pipelined_requests_are_answered(speak: Speak) -> None:
    """What is one reading only goes on: the refusals above are not for want of a connection."""
    assert statuses(speak(HEALTH.replace(b"close", b"keep-alive") + b"\r\n" + HEALTH + b"\r\n")) == [200, 200]


@pytest.mark.parametrize("how", ["lines", "one line", "address", "trailer", "extension"])
def test_endless_head_is_ended_in_bounded_memory(address: tuple[str, int], post: bytes, how: str) -> None:
    """Ended after a few packets, without an answer's worth of memory: 16 MB are offered."""
    begin, part = {
        "lines": (HEALTH, b"X-Filler: aaaaaaaa\r\n" * 800), "one line": (HEALTH + b"X-Filler: ", b"a" * 16_384),
        "address": (b"GET /", b"a" * 16_384), "trailer": (post + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"a" * 16_384),
        "extension": (post + b"Transfer-Encoding: chunked\r\n\r\n2;x=", b"a" * 16_384),
    }[how]  # fmt: skip
    with socket.create_connection(address, timeout=30) as client:
        client.sendall(begin)
        sent = 0
        try:
            while sent < 16 * 2**20:
                client.sendall(part)
                sent += len(part)
        except OSError:
            pass
    assert sent < 16 * 2**20


def test_head_that_is_too_long_is_431(address: tuple[str, int]) -> None:
    answer = b""
    with socket.create_connection(address, timeout=30) as client:
        client.sendall(HEALTH + b"X-Filler: ")
        while not select([client], [], [], 0.01)[0]:  # what is sent after the answer could take it away
            client.sendall(b"a" * 4096)
        while part := client.recv(65_536):
            answer += part
    assert statuses(answer) == [431]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "request.head"


def test_head_of_the_maximum_length_is_accepted(speak: Speak) -> None:
    assert statuses(speak(HEALTH + b"X-Filler: " + b"a" * 60_000 + b"\r\n\r\n")) == [200]


def test_a_large_body_in_small_parts_is_no_head(speak: Speak, post: bytes) -> None:
    """What counts is what is no body: 300,000 bytes of one pass, chunk by chunk."""
    post = post.replace(b"/families", b"/patches/acme/tone/versions")  # which takes so large a body
    chunks = (b"3e8\r\n" + b" " * 1000 + b"\r\n") * 300
    assert statuses(speak(post + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")) == [422]


def test_heads_that_never_end_are_given_up(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever begins and does not go on keeps no connection."""
    begin_with = BoundedProtocol.__init__
    monkeypatch.setattr(
        BoundedProtocol, "__init__", lambda *args, **options: begin_with(*args, **options | {"head_seconds": 0.2})
    )
    for begin in (b"", HEALTH, b"\r\n"):
        with socket.create_connection(address, timeout=20) as client:
            client.sendall(begin)
            assert client.recv(100) == b""


def _impatient(self: BoundedProtocol, begin: Callable[..., None], *args: Any, **options: Any) -> None:
    begin(self, *args, **options | {"head_seconds": 0.2})


def test_trailers_are_not_headers(speak: Speak, world: World) -> None:
    """A token, or anything that a proxy would have looked at, cannot come behind the body."""
    head = b"POST /api/v1/families HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n" + HOST
    answer = speak(head + b"\r\n2\r\n{}\r\n0\r\n" + authorization(world) + b"\r\n")
    assert statuses(answer) == [401]


def test_line_breaks_in_ids_and_names_are_not_sent_back(speak: Speak, world: World) -> None:
    """No answer has a line that a request smuggled into an id, an address or a name."""
    evil = b"%0d%0aX-Evil:%20yes"
    for request in (
        b"GET /healthz" + evil + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /api/v1/patches/acme/" + evil + b" HTTP/1.1\r\n" + HOST + authorization(world) + b"\r\n",
        b"GET /api/v1/ports?cursor=" + evil + b" HTTP/1.1\r\n" + HOST + authorization(world) + b"\r\n",
        HEALTH + b"X-Request-Id: a%0d%0aX-Evil: yes\r\n\r\n", HEALTH + b"X-Request-Id: " + b"a" * 65 + b"\r\n\r\n",
    ):  # fmt: skip
        head = speak(request).partition(b"\r\n\r\n")[0].lower()
        assert b"\r\nx-evil" not in head
        assert re.search(rb"x-request-id: [0-9a-f]{16}(\r\n|$)", head)


@pytest.mark.parametrize("host", [b"evil.example", b"evil.example:1/x", b"a@b", b"", b"[::1", b"\xff"])
@pytest.mark.parametrize(
    "path", [b"/healthz/", b"/api/v1/families/", b"/docs", b"/openapi.json", b"//evil.example/..", b"/api/v1/whoami"]
)
def test_no_answer_is_made_of_the_host(speak: Speak, world: World, host: bytes, path: bytes) -> None:
    """Nobody is sent where a forged Host says, and no address of it gets into a page."""
    answer = speak(b"GET " + path + b" HTTP/1.1\r\nConnection: close\r\nHost: " + host + b"\r\n" + authorization(world) + b"\r\n")
    assert statuses(answer)[0] in (200, 404, 400)
    assert b"location:" not in answer.lower()
    assert not host or host not in answer.partition(b"\r\n\r\n")[0]
    assert b"http://evil.example" not in answer


def test_body_that_ends_too_early_changes_nothing(address: tuple[str, int], post: bytes, world: World) -> None:
    """Nothing is done with half a body, and of half a file no more is said to be there than was sent."""
    assert statuses(exchange(address, post + b'Content-Length: 50\r\n\r\n{"name":"half"}', gone=True)) == []
    assert world.service.admin.get("/families/half").status_code == 404
    draft = world.draft(world.new_patch(), world.files()).json()
    url = next(upload["url"] for upload in draft["uploads"] if upload["path"] == CONFIG)
    head = f"PATCH {url} HTTP/1.1\r\nUpload-Offset: 0\r\nContent-Length: 40\r\n".encode() + HOST + authorization(world)
    exchange(address, head + b"\r\n" + world.files()[CONFIG][:10], gone=True)
    # The server drops what it had not handed on yet; what it says of the rest is what the client goes on from.
    offset = int(world.acme.head(url).headers["Upload-Offset"])
    assert 0 <= offset <= 10


def test_bytes_beyond_the_content_length_are_not_kept(speak: Speak, world: World) -> None:
    """What goes beyond Content-Length is no part of the file, and no request."""
    draft = world.draft(world.new_patch(), world.files()).json()
    url = next(upload["url"] for upload in draft["uploads"] if upload["path"] == CONFIG)
    head = f"PATCH {url} HTTP/1.1\r\nUpload-Offset: 0\r\nContent-Length: 4\r\n".encode() + HOST + authorization(world)
    assert set(statuses(speak(head + b"\r\n" + world.files()[CONFIG]))) <= {204, 400}
    assert world.acme.head(url).headers["Upload-Offset"] in ("0", "4")

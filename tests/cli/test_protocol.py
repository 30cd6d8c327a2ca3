"""The server's protocol, met by clients that send too much of a head, or stand still."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPResponse
from typing import Any

import pytest
import uvicorn

from app.cli.protocol import MAX_HEAD_BYTES, MAX_HEADERS
from app.cli.serve import server_config
from app.settings import Settings

HEAD, IDLE, PERIOD = 0.4, 1.0, 0.5
BIG = 24 * 2**20
GET = b"GET / HTTP/1.1\r\nHost: x\r\n"


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Takes a whole body, then answers with its size, or with very much; /slow thinks longer than a client may stand still.

    /early answers before it has read the body, /patient begins to read after longer than a body may take.
    """
    import asyncio

    if scope["type"] != "http":
        return
    if scope["path"] == "/patient":
        await asyncio.sleep(3 * PERIOD)
    if scope["path"] == "/early":
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
        return
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    if scope["path"] == "/slow":
        await asyncio.sleep(2 * IDLE)
    body = bytes(BIG) if scope["path"] == "/big" else str((size, scope["client"][0])).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def served(**settings: Any) -> Iterator[Callable[[], socket.socket]]:
    """The application behind the server as `portllm serve` configures it; connects to it."""
    chosen = {"head_seconds": HEAD, "idle_seconds": IDLE, "body_rate": 0, **settings}
    config = server_config(application, Settings(**chosen), lifespan="off")
    config.timeout_graceful_shutdown = 1
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        address = listener.getsockname()
        yield lambda: socket.create_connection(address, 20)
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def connect() -> Iterator[Callable[[], socket.socket]]:
    with served() as connecting:
        yield connecting


def everything(client: socket.socket) -> bytes:
    """What comes until the connection ends; fails where it does not end."""
    received = b""
    with suppress(ConnectionError):
        while part := client.recv(2**16):
            received += part
    return received


def answer(client: socket.socket) -> tuple[int, bytes]:
    """Status and body of one answer."""
    response = HTTPResponse(client)
    response.begin()
    return response.status, response.read()


def seconds(client: socket.socket) -> float:
    """How long the server keeps the connection."""
    began = time.monotonic()
    everything(client)
    return time.monotonic() - began


def test_valid_requests_are_answered(connect: Callable[[], socket.socket]) -> None:
    """Also many requests on a connection, a large body, and a head near its bounds."""
    many = b"".join(b"X-%d: y\r\n" % number for number in range(MAX_HEADERS - 3))
    with connect() as client:
        for head, body in ((b"", b""), (many, b""), (b"X-Long: " + bytes([120]) * (MAX_HEAD_BYTES - 200) + b"\r\n", b"z" * BIG)):
            client.sendall(GET + head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert answer(client) == (200, b"(%d, '127.0.0.1')" % len(body))
    with connect() as client:  # two at once
        client.sendall((GET + b"\r\n") * 2)
        received = b""
        while received.count(b"'127.0.0.1')") < 2:
            more = client.recv(65_536)
            assert more, received
            received += more
        assert received.count(b"200 OK") == 2


@pytest.mark.parametrize(
    "head",
    [
        b"".join(b"X-%d: y\r\n" % number for number in range(MAX_HEADERS + 1)) + b"\r\n",
        b"X: " + b"y" * (MAX_HEAD_BYTES + 10) + b"\r\n\r\n",
        b"".join(b"X: %s\r\n" % (b"y" * 1000) for _ in range(90)) + b"\r\n",
        b"X: " + b"y" * 4 * 2**20,  # and never an end
        b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"y" * 4 * 2**20,
    ],
    ids=["many", "long", "large", "endless", "trailer"],
)
def test_head_that_is_too_large_is_431(connect: Callable[[], socket.socket], head: bytes) -> None:
    """431 and the connection ends, whether its end comes or not; nothing of it is kept."""
    with connect() as client:
        with suppress(ConnectionError):
            client.sendall(GET + head)
        answer = everything(client)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")


def test_address_that_is_too_long_is_refused(connect: Callable[[], socket.socket]) -> None:
    with connect() as client:
        with suppress(ConnectionError):
            client.sendall(b"GET /?" + b"q" * (MAX_HEAD_BYTES + 1) + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert everything(client)[:13] in (b"HTTP/1.1 431 ", b"")


@pytest.mark.parametrize("begun", [b"", b"\r\n", b"GET / HTTP/1.1\r\n", GET], ids=["nothing", "empty line", "line", "header"])
def test_head_that_does_not_end_loses_its_connection(connect: Callable[[], socket.socket], begun: bytes) -> None:
    """Its connection ends after a while, also where a byte comes now and then."""
    with connect() as client:
        client.sendall(begun)
        stop = threading.Event()

        def drip() -> None:
            with suppress(OSError):
                while not stop.wait(HEAD / 5):
                    client.sendall(b"X" if begun == GET else b"\r\n" if begun == b"\r\n" else b"")

        dripping = threading.Thread(target=drip)
        dripping.start()
        assert HEAD / 2 <= seconds(client) < 10
        stop.set()
        dripping.join()


def test_body_that_stands_still_loses_its_connection(connect: Callable[[], socket.socket]) -> None:
    """It may take long as long as something comes; when nothing does any more, the connection ends."""
    with connect() as client:
        client.sendall(GET + b"Content-Length: 1000\r\n\r\n")
        for _ in range(6):
            time.sleep(IDLE / 2)
            client.sendall(b"x")
        assert IDLE / 2 <= seconds(client) < 10


def test_a_body_slower_than_the_minimum_rate_ends_its_connection() -> None:
    """Though something comes all the time, so that it never stands still."""
    with served(body_rate=10_000, body_rate_seconds=PERIOD) as connecting, connecting() as client:
        client.sendall(GET + b"Content-Length: 1000000\r\n\r\n")
        stop = threading.Event()

        def drip() -> None:
            with suppress(OSError):
                while not stop.wait(PERIOD / 10):
                    client.sendall(b"x" * 10)

        dripping = threading.Thread(target=drip)
        dripping.start()
        assert everything(client) == b""
        stop.set()
        dripping.join()


def test_a_body_that_began_fast_and_then_drips_ends_its_connection() -> None:
    """The rate holds for every period: what came before buys no time."""
    with served(body_rate=10_000, body_rate_seconds=PERIOD) as connecting, connecting() as client:
        client.sendall(GET + b"Content-Length: 100000000\r\n\r\n" + b"x" * BIG)
        with suppress(OSError):
            while True:
                client.sendall(b"x" * 10)
                time.sleep(PERIOD / 10)
        assert everything(client) == b""


def test_a_body_that_the_service_does_not_read_is_not_slow() -> None:
    """Nothing more can come of it then."""
    with served(body_rate=10_000, body_rate_seconds=PERIOD) as connecting, connecting() as client:
        request = b"POST /patient HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % BIG
        client.sendall(request + bytes(BIG))
        assert answer(client) == (200, b"(%d, '127.0.0.1')" % BIG)


def test_an_early_answer_arrives_and_the_rest_of_a_large_body_ends_the_connection(connect: Callable[[], socket.socket]) -> None:
    """A little more is discarded, so that a client which still sends can read the answer; a small rest keeps the connection."""
    early = b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    with connect() as client:
        for _ in range(2):
            client.sendall(early % 1000)
            assert answer(client)[0] == 401
            client.sendall(bytes(1000))
        client.sendall(early % 2**30)
        assert answer(client)[0] == 401
        sent = 0
        with suppress(ConnectionError):
            while sent < 2**28:
                sent += client.send(bytes(2**16))
        assert sent < 2**26


def test_client_that_reads_nothing_loses_its_connection(connect: Callable[[], socket.socket]) -> None:
    """An answer that waits for its client is given up; a client that is slow is not."""
    with connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        client.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(3 * IDLE)
        assert len(everything(client)) < BIG
    with connect() as client:
        client.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received, began = 0, time.monotonic()
        while part := client.recv(2**21):
            received += len(part)
            time.sleep(IDLE * len(part) / BIG * 2)
        assert received > BIG
        assert time.monotonic() - began > IDLE


def test_client_that_waits_for_an_answer_keeps_its_connection(connect: Callable[[], socket.socket]) -> None:
    """An answer that takes its time is not the client's fault; nor is a kept connection that is used again."""
    with connect() as client:
        for _ in range(2):
            client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer(client)[0] == 200


@pytest.mark.parametrize(
    ("trusted", "seen"), [([], "127.0.0.1"), (["127.0.0.1"], "192.0.2.7"), (["10.0.0.0/8", "127.0.0.0/8"], "192.0.2.7")]
)
def test_forwarded_address_counts_from_trusted_proxies_only(
    trusted: list[str], seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where settings name it: otherwise anybody could be anybody."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    with served(trusted_proxies=trusted) as connecting, connecting() as client:
        client.sendall(GET + b"X-Forwarded-For: 203.0.113.9, 192.0.2.7\r\n\r\n")
        assert answer(client) == (200, f"(0, '{seen}')".encode())

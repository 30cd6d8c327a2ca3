"""A load generator in a process of its own: kept connections, one request at a time on each, the next when its answer is there.

`python -m tests.benchmarks.http_load` reads an order from standard input and prints a result, both JSON; `load` runs it.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

CONNECTIONS = 16
WARM_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for; `body` is sent as JSON."""

    path: str
    method: str = "GET"
    body: Any = None


@dataclass(frozen=True, slots=True)
class Load:
    """What a server did under load: answers a second, latencies in milliseconds, all answers with those while it warmed up."""

    rate: float
    p50: float
    p99: float
    answers: int
    body_bytes: int


def load(url: str, requests: Sequence[Request], seconds: float, token: str | None = None, connections: int = CONNECTIONS) -> Load:
    """Asks for `requests` in turn, on every connection from another one on, for `seconds` after a second of warming up.

    Raises:
        SystemExit: an answer was not 2xx; the first such is shown.
    """
    address = urlsplit(url)
    raw = [_raw(request, address.netloc, token).decode("latin-1") for request in requests]
    order = {
        "host": address.hostname, "port": address.port, "requests": raw, "seconds": seconds, "connections": connections,
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.benchmarks.http_load"]
    done = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the load on {url}{requests[0].path} failed:\n{done.stderr[-2000:]}")
    return Load(**json.loads(done.stdout))


def _raw(request: Request, host: str, token: str | None) -> bytes:
    body = b"" if request.body is None else json.dumps(request.body).encode()
    lines = [f"{request.method} {request.path} HTTP/1.1", f"Host: {host}", "Accept: application/json"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


class _Connection(asyncio.Protocol):
    """One kept connection; httptools tells where an answer ends."""

    def __init__(self, raw: list[bytes], first: int, run: "_Run") -> None:
        import httptools

        self._raw, self._next, self._run = raw, first, run
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        now, run = time.perf_counter(), self._run
        status = self._parser.get_status_code()
        if status >= 300:
            run.fail(f"{self._asked.decode(errors='replace')}\n{status} {b''.join(self._body)[:500]!r}")
            return
        run.answers += 1
        if run.begins <= self._began and now < run.ends:
            run.times.append(now - self._began)
            run.body_bytes = sum(map(len, self._body))
        self._body.clear()
        if now < run.ends:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if time.perf_counter() < self._run.ends:
            self._run.fail(f"the server closed the connection: {exc}")
        self._run.closed()

    def _send(self) -> None:
        self._asked = self._raw[self._next % len(self._raw)]
        self._next += 1
        self._began = time.perf_counter()
        self._transport.write(self._asked)


class _Run:
    """What all connections add to."""

    def __init__(self, connections: int, seconds: float) -> None:
        self.begins = time.perf_counter() + WARM_SECONDS
        self.ends = self.begins + seconds
        self.times: list[float] = []
        self.answers = self.body_bytes = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open = connections

    def closed(self) -> None:
        self._open -= 1
        if not self._open and not self.ended.done():
            self.ended.set_result(None)

    def fail(self, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_exception(RuntimeError(reason))


async def _drive(order: dict[str, Any]) -> dict[str, Any]:
    raw = [text.encode("latin-1") for text in order["requests"]]
    count = order["connections"]
    run = _Run(count, order["seconds"])
    loop = asyncio.get_running_loop()
    for number in range(count):
        first = number * len(raw) // count
        await loop.create_connection(lambda first=first: _Connection(raw, first, run), order["host"], order["port"])
    await run.ended
    times = sorted(run.times)
    if not times:
        raise RuntimeError("no request was answered in time")
    p50, p99 = (1000 * times[int(share * len(times))] for share in (0.5, 0.99))
    return {
        "rate": len(times) / order["seconds"], "p50": p50, "p99": p99, "answers": run.answers, "body_bytes": run.body_bytes,
    }  # fmt: skip


async def trivial(scope: Any, receive: Any, send: Any) -> None:
    """The smallest application that answers: what this client can ask at most, `uvicorn tests.benchmarks.http_load:trivial`."""
    if scope["type"] == "http":
        headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_drive(json.load(sys.stdin)))))

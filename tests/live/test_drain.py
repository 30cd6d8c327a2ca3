"""How a service stops: it announces the stop, finishes what is under way within its time, and ends at once when asked twice."""

import http.client
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

from tests.support.service_process import Service, invoke, until
from tests.support.sparse_models import large_patch, large_release

LAYERS = 3  # 75 MB: more than the socket buffers between the service and a client that does not read
FOREVER = "3600"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a merged model; each test starts and stops it with settings of its own."""
    root = tmp_path_factory.mktemp("drain")
    large_release(root / "models/v1", LAYERS)
    large_patch(root / "models/patch", LAYERS, 4, 1)
    service = Service(root, root / "models").start()
    try:
        for command in (
            ["release", "add", "big", "v1", "--from", root / "models/v1", "--wait"],
            ["patch", "push", "big/patch", root / "models/patch", "--family", "big", "--trained-on", "v1"],
            ["port", "big/patch", "--to", "v1", "--json"],
        ):
            done = invoke(*command, **service.variables())
            assert done.exit_code == 0, done.output
        (root / "port").write_text(json.loads(done.stdout)["id"])
        service.stop()
        yield service
    finally:
        service.kill()


def download(service: Service) -> http.client.HTTPResponse:
    """A download of the merged model that has begun, by a client that reads nothing by itself."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
    connection.settimeout(60)
    url = httpx.URL(service.url)
    connection.connect((url.host, url.port))
    path = f"/api/v1/ports/{(service.root / 'port').read_text()}/files/model.safetensors"
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.token}\r\n\r\n".encode())
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    assert answer.status == 200
    return answer


def refuses(service: Service) -> bool:
    """the listener to be closed"""
    try:
        httpx.get(f"{service.url}/healthz").raise_for_status()
    except httpx.TransportError:
        return True
    return False


def test_stop_is_announced_while_the_listener_accepts(service: Service) -> None:
    """/readyz says 503 with the part "draining", requests are answered, event streams end; a second signal ends the process."""
    service.change(PORTLLM_DRAIN_DELAY_SECONDS=FOREVER, PORTLLM_DRAIN_SECONDS=FOREVER)
    service.start()
    with service.client() as client, client.stream("GET", "/events", headers={"Accept": "text/event-stream"}) as stream:
        lines = stream.iter_lines()
        next(lines)
        assert httpx.get(f"{service.url}/readyz").status_code == 200
        service.process.send_signal(signal.SIGTERM)
        for _ in lines:  # ends by itself, in order
            pass
        unready = httpx.get(f"{service.url}/readyz")
        assert (unready.status_code, unready.json()["code"]) == (503, "server.unready")
        assert list(unready.json()["data"]["parts"]) == ["draining"]
        assert client.get("/whoami").status_code == 200
    assert service.process.poll() is None
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(30) == 128 + signal.SIGTERM


def test_download_under_way_is_finished_before_the_process_ends(service: Service) -> None:
    """No new connection is accepted meanwhile, and every byte arrives."""
    service.change(PORTLLM_DRAIN_DELAY_SECONDS="0", PORTLLM_DRAIN_SECONDS=FOREVER)
    service.start()
    with download(service) as answer:
        service.process.send_signal(signal.SIGTERM)
        until(lambda: refuses(service), 30)
        assert service.process.poll() is None
        received = 0
        while part := answer.read(2**20):
            received += len(part)
        assert received == int(answer.headers["Content-Length"])
    assert service.process.wait(60) == 0


def test_download_that_outlasts_its_time_is_cut(service: Service) -> None:
    """The process ends although the client never reads, and its log says so in a line."""
    seen_before = service.errors()
    service.change(PORTLLM_DRAIN_DELAY_SECONDS="0", PORTLLM_DRAIN_SECONDS="0")
    service.start()
    with download(service) as answer:
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(60) == 0
        received = 0
        with suppress(http.client.IncompleteRead, ConnectionError):
            while part := answer.read(2**20):
                received += len(part)
        assert received < int(answer.headers["Content-Length"])
    told = service.errors().removeprefix(seen_before)
    assert "a request that was not done within PORTLLM_DRAIN_SECONDS was cut" in told
    assert "Traceback" not in told

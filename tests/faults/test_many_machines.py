"""PostgreSQL, S3, a service and two workers: any of them is killed, paused or cut off at random moments of real work.

After every round: the work is done once, the bytes are right, nothing is half-visible, and the check of database against bytes
is clean. At the end a sweep removes whatever was left behind.
"""

import signal
import socket
from functools import partial

import httpx
import pytest

from tests.faults import tally
from tests.faults.operations import Ingestion, Materialisation, Upload
from tests.faults.rounds import LONG, ROUNDS, survive
from tests.faults.world import Site
from tests.support.service_process import until

pytestmark = pytest.mark.timeout(LONG)
# One of each noun.
READ = (
    "/families", "/patches", "/ports", "/jobs", "/events", "/workers", "/imports", "/audit", "/whoami", "/tokens", "/upstreams",
)  # fmt: skip


def test_kill_9_of_the_service(site: Site) -> None:
    """While clients send a patch straight to S3, and workers read a release and write a model."""

    def strike() -> None:
        site.fleet.kill()
        site.fleet.start()

    operations = [Upload(site, direct=True), Ingestion(site, copy=True), Materialisation(site)]
    survive(site, "kill -9 of the service", operations, strike)


def test_kill_9_of_the_workers(site: Site) -> None:
    """Both at once: their jobs are taken over by others, and a model is complete or not there."""

    def strike() -> None:
        for worker in site.workers:
            worker.kill()
        for worker in site.workers:
            until(lambda w=worker: not w.jobs(), 10)  # their processes end by themselves
        site.hire()

    survive(site, "kill -9 of the workers", [Ingestion(site, copy=True), Materialisation(site)], strike)


def test_two_workers_with_one_job(site: Site) -> None:
    """Those that have the jobs are paused for longer than their time and go on beside those that took them over."""

    def strike() -> None:
        paused = [worker for worker in site.workers if worker.jobs()]
        for worker in paused:
            worker.send(signal.SIGSTOP)
        others = [site.worker() for _ in paused]
        for worker in others:
            worker.ready()
        with site.service.client() as client:
            names = {worker.id for worker in paused}
            until(lambda: not any(w["jobs"] for w in client.get("/workers").json()["items"] if w["id"] in names), 60)
        for worker in paused:
            worker.send(signal.SIGCONT)
        for worker in others[: len(site.workers)]:
            worker.stop()  # back to two: what these have of jobs comes back to those

    survive(site, "workers paused", [Ingestion(site, copy=True), Materialisation(site)], strike)


def test_the_database_ends_at_once_under_load(site: Site) -> None:
    """Stopped in immediate mode: clients see 503 and no 500, and nothing is lost."""
    operations = [Upload(site, direct=True), Ingestion(site, copy=True), Materialisation(site)]
    statuses: set[int] = set()

    def strike() -> None:
        site.cluster.crash()
        with site.fleet.client() as client:
            statuses.update(client.get(path).status_code for path in READ)
            statuses.add(client.post("/families", json={"name": "unwritten"}).status_code)
            site.cluster.start()
            until(lambda: client.get("/families").status_code == 200, 60)
        assert statuses <= {200, 503}, statuses

    survive(site, "PostgreSQL stopped in immediate mode", operations, strike)
    assert 503 in statuses or not ROUNDS


def test_a_client_leaves_in_the_middle_of_a_proxied_read(site: Site) -> None:
    """The service lets go of the worker, which has the place of that read again at once, though most was not read."""
    fault, model = "client leaves", Materialisation(site)
    path = f"/ports/{model.port}/files/model.safetensors"
    reader = site.worker("--class", "reader", "--listen", "127.0.0.1:0", PORTLLM_MERGED_READS="1")
    try:
        reader.ready()
        with site.service.client() as client:
            until(lambda: client.get(path).status_code == 307, 30)
            for number in range(ROUNDS):
                with tally.one_round(fault, ["proxied read"], site.backend):
                    held = partial(_hold, site, client, path)
                    held.__doc__ = "the only place of the worker to be taken"
                    with until(held, 20) as connection:
                        for _ in range(number % 3):
                            assert connection.recv(2**19, socket.MSG_WAITALL)
                        assert _status(client, path) == 503, "most was not read"
                    until(lambda: _status(client, path) == 206, 20)
    finally:
        reader.stop()


def _hold(site: Site, client: httpx.Client, path: str) -> socket.socket | None:
    """A read that has the worker's place; None where the service read itself, because a sign of life was late."""
    connection = _reading(site, path)
    if _status(client, path) == 503:
        return connection
    connection.close()
    return None


def _reading(site: Site, path: str) -> socket.socket:
    """A client that has asked for all of a file, through the service, and reads little of it."""
    url, connection = httpx.URL(site.service.url), socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
    connection.settimeout(60)
    connection.connect((url.host, url.port))
    request = f"GET /api/v1{path}?redirect=false HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.service.token}\r\n\r\n"
    connection.sendall(request.encode())
    assert b" 200 " in connection.recv(100)
    return connection


def _status(client: httpx.Client, path: str) -> int:
    """What the worker answers to somebody who wants one byte."""
    location = client.get(path).headers["Location"]
    return httpx.get(location, headers={"Range": "bytes=0-0"}, timeout=60).status_code

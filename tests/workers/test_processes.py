"""`portllm serve --processes 2` on PostgreSQL: one service to the outside, whichever process answers."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.live.service import until
from tests.support.workers import Cluster, Fleet


class Replicas(Fleet):
    """A service of two processes."""

    def arguments(self) -> list[str]:
        return [*super().arguments(), "--processes", "2"]

    def answering(self) -> set[int]:
        """The processes that answer: below the one that was started, and not Python's own helper."""
        found = set()
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and b"spawn_main" in (entry / "cmdline").read_bytes():
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    found |= {int(entry.name)} if parent == self.pid else set()
            except OSError:  # it ended
                continue
        return found


@pytest.fixture(scope="module")
def service(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    started = Replicas(tmp_path_factory.mktemp("replicas"), cluster.database())
    started.start()
    yield started
    started.kill()


def ask(service: Replicas, times: int) -> None:
    """On a connection of its own each time, so that every process gets some."""
    for _ in range(times):
        with service.client() as client:
            assert client.get("/whoami").json()["owner"] == "admin"


def test_one_service_to_the_outside(service: Replicas) -> None:
    """One first token, and metrics that count what all processes answered; a token that is revoked is so for all at once."""
    assert len(service.answering()) == 2
    assert service.output().count("Admin token") == 1
    before = counted(service)
    ask(service, 30)
    assert counted(service) - before == 30
    with service.client() as client:
        made = client.post("/tokens", json={"owner": "acme", "scopes": ["read"]}).json()
        mine = {"Authorization": f"Bearer {made['token']}"}
        assert {httpx.get(f"{service.url}/api/v1/whoami", headers=mine).status_code for _ in range(8)} == {200}
        client.delete(f"/tokens/{made['id']}").raise_for_status()
        assert {httpx.get(f"{service.url}/api/v1/whoami", headers=mine).status_code for _ in range(8)} == {401}


def counted(service: Replicas) -> int:
    """Answers to /whoami so far, as whichever process is asked counts them."""
    text = httpx.get(f"{service.url}/metrics").text
    found = re.search(r'portllm_requests_total{method="GET",route="/api/v1/whoami",status="200"} (\d+)', text)
    return int(found[1]) if found else 0


def test_a_process_that_dies_is_replaced(service: Replicas) -> None:
    """The others go on answering meanwhile."""
    before = service.answering()
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    until(lambda: not _runs(victim))  # its sockets are closed: what it had accepted is nobody's
    ask(service, 5)
    until(lambda: len(service.answering()) == 2)
    assert service.answering() - before
    ask(service, 5)


def test_no_process_outlives_the_service(service: Replicas) -> None:
    """Also where it is killed: nobody would hold its lock or keep its house any more."""
    processes = service.answering()
    assert processes
    service.kill()
    until(lambda: not any(_runs(pid) for pid in processes), 30)
    service.start()
    processes = until(service.answering)
    ask(service, 3)
    service.stop()
    assert not any(_runs(pid) for pid in processes)
    assert service.process.returncode == 0


def _runs(pid: int) -> bool:
    """Whether any of its threads does: until the last has ended its sockets are open, though the process counts as dead."""
    states = []
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):  # it ended
            states.append(thread.read_text().rpartition(")")[2].split()[0])
    return any(state not in "ZX" for state in states)

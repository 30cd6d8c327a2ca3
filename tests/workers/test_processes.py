"""`portllm serve --processes 2` on PostgreSQL: one service to the outside, whichever process answers."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.support.service_process import until
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
    assert service.output().count("The admin token is in ") == 1
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


def test_process_lost_while_the_database_is_away_is_replaced_when_it_is_back(service: Replicas, cluster: Cluster) -> None:
    """One that cannot start is tried again and again; the service goes on with the others, and ends in order afterwards."""
    before = until(lambda: len(found := ready(service)) == 2 and found)
    failures = service.errors().count("cannot start")
    cluster.crash()
    try:
        os.kill(min(before), signal.SIGKILL)
        until(lambda: service.errors().count("cannot start") >= failures + 2)
        assert service.process.poll() is None
        assert max(before) in ready(service)
        assert httpx.get(f"{service.url}/healthz").status_code == 200
    finally:
        cluster.start()
    until(lambda: len(ready(service)) == 2)
    ask(service, 5)
    assert "Traceback" not in service.errors(), "a database that is away is told in one line each time"


def test_all_processes_lost_at_once_are_replaced(service: Replicas) -> None:
    """Nobody answers for a moment; the service does not end."""
    before = until(lambda: len(found := ready(service)) == 2 and found)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(ready(service) - before) == 2)
    ask(service, 5)


def ready(service: Replicas) -> set[int]:
    """The processes that listen: those that can be asked for a connection that none of the others took."""
    listening = set()
    port = f":{int(service.url.rpartition(':')[2]):04X} "
    inodes = {line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if port in line and " 0A " in line}
    for pid in service.answering():
        with suppress(OSError):  # it ended
            links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
            listening |= {pid} if any(f"socket:[{inode}]" in links for inode in inodes) else set()
    return listening


def test_stop_is_announced_by_every_process_and_a_second_signal_ends_all(service: Replicas) -> None:
    """Each says 503 with the part "draining" while it accepts."""
    service.stop()
    service.change(PORTLLM_DRAIN_DELAY_SECONDS="3600")
    service.start()
    processes = service.answering()
    os.kill(service.pid, signal.SIGTERM)
    until(lambda: all(parts == ["draining"] for parts in [readiness(service) for _ in range(10)]))
    assert len(ready(service)) == 2
    os.kill(service.pid, signal.SIGTERM)
    assert service.process.wait(30) == 128 + signal.SIGTERM
    until(lambda: not any(_runs(pid) for pid in processes), 30)
    service.change(PORTLLM_DRAIN_DELAY_SECONDS="0")
    service.start()


def readiness(service: Replicas) -> list[str]:
    """The parts of one answer of /readyz that are not ready."""
    answer = httpx.get(f"{service.url}/readyz").json()
    return [name for name, part in (answer.get("data") or answer)["parts"].items() if not part["ok"]]


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

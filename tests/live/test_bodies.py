"""Memory of a service that somebody with a token sends the largest bodies: a few times their length, whatever is in them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.hostile import JSON_BOMBS
from tests.support.service_process import Service

MIB = 2**20
# Measured: 19 MiB for the worst; 225 MiB before what is in a body was counted.
GROWTH = 48 * MIB
LISTS, SMALL = "patches/acme/none/versions", "families"


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that nothing else was asked of."""
    started = Service(tmp_path_factory.mktemp("bodies")).start()
    try:
        yield started
    finally:
        started.kill()


def grown(service: Service, client: httpx.Client, path: str, body: bytes) -> tuple[str, int]:
    """The code that a body is refused with, and by how much the service grew at most meanwhile."""
    before = service.memory("VmRSS")
    Path(f"/proc/{service.pid}/clear_refs").write_text("5")  # the peak begins anew
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    return answer.json()["code"], service.memory("VmHWM") - before


@pytest.mark.parametrize(("name", "body"), JSON_BOMBS.items(), ids=JSON_BOMBS)
def test_large_bodies(lone: Service, name: str, body: bytes) -> None:
    """Where a list may be sent each of them is refused for what is in it; elsewhere for its length, before it is there."""
    with lone.client() as client:
        code, growth = grown(lone, client, LISTS, body)
        assert code in ("request.invalid", "request.too_complex")
        assert growth < GROWTH, f"{growth / MIB:.0f} MiB"
        code, growth = grown(lone, client, SMALL, body)
        assert code == "request.too_large"
        assert growth < 8 * MIB, f"{growth / MIB:.0f} MiB"


def test_several_at_once(lone: Service) -> None:
    """What is parsed is parsed by one at a time: others cost what they sent."""
    bodies = list(JSON_BOMBS.values())
    with lone.client() as client, ThreadPoolExecutor(len(bodies)) as pool:
        before = lone.memory("VmRSS")
        Path(f"/proc/{lone.pid}/clear_refs").write_text("5")
        headers = {"Content-Type": "application/json"}
        list(pool.map(lambda body: client.post(LISTS, content=body, headers=headers), bodies))
        growth = lone.memory("VmHWM") - before
    assert growth < GROWTH + 2 * sum(map(len, bodies)), f"{growth / MIB:.0f} MiB"


def test_the_longest_list_is_taken(lone: Service) -> None:
    """10,000 files of long names: refused for what they say, not for how many they are."""
    files = [{"path": f"checkpoint-{n}/" + "x" * 500, "size": n, "sha256": "0" * 64} for n in range(10_000)]
    with lone.client() as client:
        answer = client.post(LISTS, json={"trained_on": "unknown", "files": files})
        assert (answer.status_code, answer.json()["code"]) == (404, "patch.unknown")

"""The Hub protocol where storage or slots are lacking: what clients can wait for, and nothing that looks like an end."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import httpx
import pytest

from app.services.artifacts import storage_probes
from app.services.read_slots import ReadSlot
from tests.support.fixtures import Models
from tests.support.hub_requests import Hub
from tests.support.registry import Service


@pytest.fixture
def slot(fresh: Callable[..., Service], models: Models) -> tuple[Service, Hub]:
    """llama with v1 that lies where it was registered from, acme/tone ported to it; one slot for reads."""
    service = fresh(merged_reads=1)
    service.admin.family("llama")
    v1 = service.place / "v1"
    v1.mkdir()
    for path in models.v1.iterdir():
        (v1 / path.name).write_bytes(path.read_bytes())
    service.release("llama", "v1", v1)
    acme = service.caller("acme")
    acme.publish(acme.patch("acme", "tone"), models.patch)
    acme.port("acme/tone", "v1")
    return service, Hub(acme)


def shard_of(hub: Hub) -> str:
    return next(e["path"] for e in hub.tree("acme/tone.merged") if e["path"].endswith(".safetensors"))


def test_head_on_hanging_storage_is_503(slot: tuple[Service, Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    """HEAD answers 503 with Retry-After in time for its client; the metadata does not ask the storage, and goes on."""
    service, hub = slot
    sha, shard, let_go = hub.sha("acme/tone.merged"), shard_of(hub), threading.Event()
    library = service.runtime.tools.artifacts
    looks = []
    monkeypatch.setattr(library, "_touch_release", lambda _: (looks.append(1), let_go.wait(20)))
    monkeypatch.setattr(storage_probes, "LIMIT_SECONDS", 0.3)
    began = time.monotonic()
    for repository, path in (("acme/tone.merged", shard), ("acme/tone.merged", "config.json"), ("base/llama", "config.json")):
        head = hub.head(f"/{repository}/resolve/main/{path}")
        assert (head.status_code, head.headers["Retry-After"]) == (503, "2")
        assert "gave no byte" in head.headers["X-Error-Message"]
    assert time.monotonic() - began < 15
    assert len(looks) == 1  # one look hangs, nobody begins another
    assert hub.sha("acme/tone.merged") == sha
    assert hub.file("acme/tone.merged", "main", "README.md").status_code == 200
    let_go.set()
    time.sleep(0.1)
    assert hub.head(f"/acme/tone.merged/resolve/{sha}/{shard}").status_code == 200


def test_head_on_missing_storage_is_refused(slot: tuple[Service, Hub], tmp_path: Path) -> None:
    """What cannot be served is said at HEAD, not after a client has begun."""
    service, hub = slot
    shard = shard_of(hub)
    assert hub.head(f"/acme/tone.merged/resolve/main/{shard}").status_code == 200
    (service.place / "v1").rename(tmp_path / "away")
    time.sleep(storage_probes.FRESH_SECONDS + 0.1)
    head = hub.head(f"/acme/tone.merged/resolve/main/{shard}")
    assert head.status_code == 409
    assert head.headers["X-Error-Message"]
    assert hub.info("acme/tone.merged")["sha"]
    (tmp_path / "away").rename(service.place / "v1")
    assert hub.head(f"/acme/tone.merged/resolve/main/{shard}").status_code == 200


def test_read_waits_for_a_slot(slot: tuple[Service, Hub]) -> None:
    """A GET that meets no free slot waits a while for one; 503 would be the end for its client."""
    service, hub = slot
    shard = shard_of(hub)
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with service.runtime.merged_reads.hold("acme"):
            taken.set()
            done.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(60)
    threading.Timer(1.0, done.set).start()
    began = time.monotonic()
    got = hub.file("acme/tone.merged", "main", shard)
    assert (got.status_code, got.headers["Content-Length"]) == (200, str(len(got.content)))
    assert time.monotonic() - began > 0.9
    holder.join()


def test_waiting_reads_are_served_in_order(slot: tuple[Service, Hub]) -> None:
    """One slot and three clients that came one after another; after each of them the test has the slot, and looks."""
    service, hub = slot
    shard, slots, granted = shard_of(hub), service.runtime.merged_reads, Queue[ReadSlot]()
    reads = list[Future[httpx.Response]]()
    with ThreadPoolExecutor(3) as pool:
        held = slots.take("acme")
        for number in range(3):
            reads.append(pool.submit(hub.file, "acme/tone.merged", "main", shard))
            until(lambda: slots.waiting() == 2 * number + 1)  # noqa: B023  called here and now
            slots.wait("acme", granted.put)
        held.release()
        for number in range(3):
            own = granted.get(timeout=7)
            assert reads[number].result(7).status_code == 200
            assert not any(read.done() for read in reads[number + 1 :])
            own.release()
    assert (slots.waiting(), slots.taken()) == (0, {})


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 7
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(("agent", "status", "seconds"), [
    ("unknown/None; hf_hub/2.4.0; python/3.11", 429, "10"), ("transformers/5; hf_hub/1.33.0", 429, "10"),
    ("unknown/None; hf_hub/0.36.2; python/3.11", 503, "2"), ("curl/8", 503, "2"),
])  # fmt: skip
def test_read_without_a_slot_in_time_is_refused(
    slot: tuple[Service, Hub], monkeypatch: pytest.MonkeyPatch, agent: str, status: int, seconds: str
) -> None:
    """Each client is told in the one way that brings it back."""
    service, hub = slot
    shard = shard_of(hub)
    monkeypatch.setattr("app.hub.read_queue.PATIENCE_SECONDS", 0.3)
    with service.runtime.merged_reads.hold("acme"):
        got = hub.file("acme/tone.merged", "main", shard, headers={"User-Agent": agent})
    assert (got.status_code, got.json()["status"], got.json()["code"]) == (status, status, "server.busy")
    assert got.headers["Retry-After"] == seconds

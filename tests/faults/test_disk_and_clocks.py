"""PostgreSQL and one directory for all: a disk that is full, and clocks that differ."""

import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.faults import tally
from tests.faults.operations import FAMILY, Ingestion, Upload, digests
from tests.faults.rounds import LONG, ROUNDS, each_round
from tests.faults.world import World
from tests.support.disk import MEGABYTE, ROOM, Disk, mounted
from tests.support.service_process import until
from tests.support.workers import Cluster, Fleet, Worker

pytestmark = pytest.mark.timeout(LONG)
HOUR = 3600


class Shared(World):
    """A service and a worker on PostgreSQL, which share a small disk for bytes."""

    backend = "PostgreSQL, directory"

    def __init__(self, root: Path, cluster: Cluster) -> None:
        (root / "releases").mkdir()
        self.fleet = Fleet(root, cluster.database(), root / "releases")
        super().__init__(root, self.fleet, **self.fleet.settings)
        self.workers: list[Worker] = []

    def worker(self, **variables: str) -> Worker:
        worker = Worker(self.fleet, f"worker{len(self.workers)}", **variables)
        self.workers.append(worker)
        return worker

    def end(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.fleet.kill()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="pg") as place:  # short: a socket lies in it
        found = Cluster(Path(place) / "data")
        yield found
        found.stop()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Where the registry keeps its data; skips where none can be mounted."""
    with mounted(tmp_path / "data") as found:
        yield found


@pytest.fixture
def shared(tmp_path: Path, cluster: Cluster) -> Iterator[Shared]:
    found = Shared(tmp_path, cluster)
    try:
        found.fleet.start()
        yield found
    finally:
        found.end()


def test_a_full_disk(disk: Disk, shared: Shared) -> None:
    """What a worker copies and what a client sends is refused by name; with space again both go on, and nothing was lost."""
    fault = "disk full"
    shared.worker().ready()
    ingestion, upload = Ingestion(shared, copy=True), Upload(shared, direct=False)
    numbers = iter(range(ROUNDS))

    def meet_a_full_disk() -> None:
        ingestion.begin()
        upload.begin()
        path = f"/families/{FAMILY}/releases/{ingestion.release}"
        with shared.service.client() as client:
            row = until(lambda: (r := client.get(path).json())["state"] == "rejected" and r, 60)
        assert row["problem"]["code"] == "server.storage_full"
        upload.client.join(60)
        assert "507" in upload.status(), upload.status()

    def one(_: str) -> None:
        number = next(numbers)
        with tally.one_round(fault, [ingestion.name, upload.name], shared.backend):
            ingestion.prepare(f"full{number}")
            upload.prepare(f"full{number}")
            disk.leave((number % 3) * 5 * MEGABYTE)
            try:
                meet_a_full_disk()
            finally:
                disk.leave(ROOM)
            ingestion.begin()
            ingestion.finish(attempts=2)
            upload.finish()
            shared.check(quick=True)  # every byte is read at the end

    each_round(shared, fault, one)
    shared.sweep(fault)


def _skewed(seconds: int) -> dict[str, str]:
    """Environment of a process whose clock is wrong; time that only passes, and the dates of files, are true."""
    found = importlib.util.find_spec("libfaketime")
    library = next(Path(found.origin).parent.rglob("libfaketime.so.1"), None) if found and found.origin else None
    if library is None:
        pytest.skip("needs the package libfaketime, of the test extra")
    # No worker here is silent on purpose before one is killed, and two seconds without a word are not rare on a busy machine.
    return {
        "PORTLLM_WORKER_TTL_SECONDS": "8",
        "LD_PRELOAD": str(library), "FAKETIME": f"{seconds:+}", "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }  # fmt: skip


def test_clocks_that_differ(shared: Shared) -> None:
    """Workers an hour ahead and behind keep their jobs and leave others theirs; a service a day ahead sweeps nothing young."""
    fault = "clock skew"
    ahead, behind = shared.worker(**_skewed(HOUR)), shared.worker(**_skewed(-HOUR))
    with shared.service.client() as client:
        client.post("/families", json={"name": FAMILY})
        ahead.ready()
        behind.ready()
        upload = Upload(shared, direct=False)
        operations = [Ingestion(shared, copy=False), Ingestion(shared, copy=True)]
        upload.prepare("before")
        draft = _draft(client, upload)
    shared.fleet.kill()
    shared.fleet.change(**_skewed(25 * HOUR))
    stray = shared.service.data / "blobs/sha256/00" / ("00" + "a" * 62)  # young, and nobody's yet
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"x")
    shared.fleet.start()
    with shared.service.client() as client:
        for number in range(ROUNDS):
            with tally.one_round(fault, [operation.name for operation in operations], shared.backend):
                for operation in operations:
                    operation.prepare(f"clock{number}")
                    operation.begin()
                told = [operation.finish() for operation in operations]
                assert told == ["ready, attempt 1"] * 2
                assert all(w["alive"] for w in client.get("/workers").json()["items"])
        # The service has swept at its start, before all this work.
        assert client.get(f"/uploads/{draft}").status_code == 200, "a young draft was swept"
        assert stray.exists(), "young bytes were swept"
        stray.unlink()
        upload.client.id = draft
        assert upload.client.resume() == "resumed"
        # Who is really gone is taken for gone, by one whose clock is two hours off.
        long = Ingestion(shared, copy=False, layers=12)
        long.prepare("over")
        long.begin()
        until(lambda: ahead.jobs() or behind.jobs())
        (ahead if ahead.jobs() else behind).kill()
        assert long.finish() == "ready, attempt 2"
    shared.check()


def _draft(client: httpx.Client, upload: Upload) -> str:
    """Announces a patch and sends the first bytes of it."""
    sender = upload.client
    client.post("/patches", json={"owner": "acme", "name": sender.name, "family": FAMILY}).raise_for_status()
    body = {"trained_on": "trained-on", "files": sender.files}
    draft = client.post(f"/patches/acme/{sender.name}/versions", json=body).raise_for_status().json()
    headers = {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    content = (sender.patch / "adapter_model.safetensors").read_bytes()[:MEGABYTE]
    client.patch(f"/uploads/{draft['id']}/files/adapter_model.safetensors", content=content, headers=headers).raise_for_status()
    assert digests(sender.patch)
    return str(draft["id"])

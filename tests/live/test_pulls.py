"""Pulls and imports by a real service and its jobs: killed in the middle, cancelled, in bounded memory, no token to be seen."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_hub import SIGNATURE, FakeHub, Fault, running_hub
from tests.support.models import make_patch
from tests.support.service_process import Service, invoke, until

LARGE, SIZE = "tokenizer.model", 20 * 2**20
TOKEN = "hf_sEcReT-of-the-upstream"
# Python with what speaks HTTP and reads headers; far from the file's size beside it.
MOST_MEMORY = 160 * 2**20


@pytest.fixture(scope="module")
def hub(models: Path) -> Iterator[FakeHub]:
    """A hub with the tiny llama and a file that takes a while."""
    with running_hub() as hub:
        hub.token = TOKEN
        hub.add("org/llama", models / "v1").files[LARGE] = os.urandom(SIZE)
        yield hub


@pytest.fixture(scope="module")
def own(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that knows the hub as `own`, and says all it can; at its end what it said is looked at."""
    known = {"PORTLLM_LOG_FORMAT": "json", "PORTLLM_LOG_LEVEL": "debug"}
    service = Service(tmp_path_factory.mktemp("pulls"), ahead=False, **known).start()
    hosts = ("--private-host", "127.0.0.1", "--http-host", "127.0.0.1")
    added = invoke("upstream", "add", "own", "--endpoint", hub.url, *hosts, "--token-stdin", given=TOKEN, **service.variables())
    assert added.exit_code == 0, added.output
    try:
        yield service
    finally:
        service.kill()
    assert ":ingest:" in service.errors()
    assert [secret for secret in (TOKEN, SIGNATURE) if secret in service.errors() + service.output()] == []


@dataclass
class Gate:
    """How much of the large file the hub has let out."""

    bytes: int = 4 * 2**20

    def open(self) -> None:
        self.bytes = SIZE


@pytest.fixture
def gate(hub: FakeHub) -> Iterator[Gate]:
    """The hub holds the large file back, so that a test decides how far a pull has got, however fast the machine is."""
    gate = Gate()
    hub.faults = lambda server, path, _: Fault(allowed=lambda: gate.bytes) if server == "cdn" and path == LARGE else None
    hub.asked.clear()
    yield gate
    gate.open()


def begun(service: Service, name: str, gate: Gate) -> dict[str, Any]:
    """A release of which a part has arrived, but not all."""
    added = invoke("release", "add", "llama", name, "--from", "own:org/llama", **service.variables())
    assert added.exit_code == 0, added.output
    with service.client() as client:
        row = client.get(f"/families/llama/releases/{name}").json()
    until(lambda: arrived(service, row["id"]) >= gate.bytes // 2)  # some is in the hands of who writes larger pieces
    return dict(row)


def arrived(service: Service, release: str) -> int:
    """Bytes of the large file that are staged."""
    sizes = [path.stat().st_size for path in (service.data / "blobs/staging").glob(f"pull-{release}/*") if path.is_file()]
    return max(sizes, default=0)


def state(service: Service, name: str) -> dict[str, Any]:
    with service.client() as client:
        return dict(client.get(f"/families/llama/releases/{name}").json())


def starts(hub: FakeHub) -> list[int]:
    """Where the requests for the large file began."""
    return [int(a.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0]) for a in hub.fetched(LARGE, "cdn")]


def test_killed_in_the_middle(own: Service, hub: FakeHub, gate: Gate) -> None:
    """kill -9 of the job, then of the service: each time it goes on where it was, and the release is whole."""
    row = begun(own, "killed", gate)
    (child,) = own.jobs()
    environment, command = (Path(f"/proc/{child}/{name}").read_bytes() for name in ("environ", "cmdline"))
    assert TOKEN.encode() not in environment + command
    os.kill(child, signal.SIGKILL)
    until(lambda: child not in own.jobs())
    before = arrived(own, row["id"])
    until(lambda: len(starts(hub)) > 1)
    assert starts(hub)[1] == before
    gate.bytes += 4 * 2**20
    until(lambda: arrived(own, row["id"]) > before)
    own.kill()
    until(lambda: not own.jobs())
    before, count = arrived(own, row["id"]), len(starts(hub))
    own.start()
    until(lambda: len(starts(hub)) > count)
    assert starts(hub)[count] == before
    gate.open()
    peaks = [0]

    def ended() -> bool:
        peaks.extend(_peak(pid) for pid in own.jobs())
        return state(own, "killed")["state"] != "ingesting"

    until(ended)
    assert state(own, "killed")["state"] == "ready", state(own, "killed")["problem"]
    assert sorted(starts(hub)) == starts(hub)
    assert max(peaks) < MOST_MEMORY
    assert list((own.data / "blobs/staging").glob("pull-*")) == []
    assert invoke("fsck", "--data", own.data, "--json").exit_code == 0


def test_cancelled_and_taken_up_again(own: Service, hub: FakeHub, gate: Gate) -> None:
    """The job ends within seconds, what arrived stays for the next attempt, and progress is in bytes."""
    repository = hub.repositories["org/llama"]
    repository.files[LARGE] = os.urandom(SIZE)
    row = begun(own, "cancelled", gate)
    with own.client() as client:
        progress = until(lambda: client.get(f"/jobs/{row['job']}").json()["progress"])
        assert progress["note"] == "Downloading"
        assert progress["total"] > SIZE
        assert invoke("jobs", "cancel", row["job"], **own.variables()).exit_code == 0
    until(lambda: not own.jobs(), 10)
    ended = state(own, "cancelled")
    assert (ended["state"], ended["problem"]["code"]) == ("rejected", "job.cancelled")
    before, count = arrived(own, row["id"]), len(starts(hub))
    assert before >= gate.bytes // 2
    gate.open()
    again = invoke("release", "add", "llama", "cancelled", "--from", "own:org/llama", "--wait", **own.variables())
    assert again.exit_code == 0, again.output
    assert starts(hub)[count] == before
    assert invoke("jobs", "retry", row["job"], **own.variables()).exit_code == 1


def test_an_organisation(own: Service, hub: FakeHub, models: Path, tmp_path: Path) -> None:
    """By the verb: one outcome for each, exit code 1 because one was refused, JSON for programs; again, all is there."""
    hub.repositories.pop("org/llama").files.clear()
    hub.add("base/llama", models / "v1")
    wide = make_patch(models / "wide", tmp_path / "wide")
    hub.asked.clear()
    known = own.variables()
    assert invoke("release", "add", "tiny", "v1", "--from", "own:base/llama", "--wait", **known).exit_code == 0
    assert invoke("family", "alias", "add", "tiny", "upstream/llama", **known).exit_code == 0
    for name, base in (("tone", "upstream/llama"), ("mood", "upstream/llama"), ("odd", "no/base"), ("wide", "upstream/llama")):
        repository = hub.add(f"org/{name}", wide if name == "wide" else models / "patch")
        said = json.loads(repository.files["adapter_config.json"]) | {"base_model_name_or_path": base}
        repository.files |= {"adapter_config.json": json.dumps(said).encode(), "README.md": name.encode()}
    words = ("patch", "import", "own:org/*", "--owner", "acme")
    first = invoke(*words, "--json", **known)
    assert first.exit_code == 1, first.output
    outcomes = [(r["patch"], (r["state"], r["version"], r["problem"] and r["problem"]["code"])) for r in json.loads(first.output)]
    assert dict(outcomes) == {
        "acme/tone": ("imported", 1, None), "acme/mood": ("imported", 1, None), "acme/odd": ("refused", None, "import.base"),
        "acme/wide": ("refused", None, "port.shape"),
    }  # fmt: skip
    listed = tmp_path / "list.txt"
    listed.write_text("own:org/tone  # the good one\n\n# nothing\nown:org/mood\n")
    again = invoke("patch", "import", "--list", listed, "--owner", "acme", **known)
    assert (again.exit_code, "2 present." in again.output) == (0, True), again.output
    assert "[client.import]" in invoke("patch", "import", **known).output
    assert "[upstream.reference]" in invoke("patch", "import", "org/tone", **known).output


def _peak(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)

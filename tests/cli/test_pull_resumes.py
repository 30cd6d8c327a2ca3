"""`portllm pull` over a network that breaks: goes on where it was, and takes nothing on trust."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.merging import digests
from tests.support.proxy import Proxy
from tests.support.service_process import Service, environment, invoke, until
from tests.support.sparse_models import LAYER_BYTES, large_patch, large_release

SHARD = "model.safetensors"
CUT = LAYER_BYTES // 3


@pytest.fixture(scope="module")
def merged(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A port of 25 MB in one file on the service, and the same merge made locally."""
    root = service.root / "releases/pulls"
    large_release(root / "v1", 1)
    large_patch(root / "patch", 1, 8, 1)
    added = invoke("release", "add", "pulls", "v1", "--from", root / "v1", "--wait", **service.variables())
    assert added.exit_code == 0, added.output
    _publish(service, "pulls/patch", root / "patch")
    out = tmp_path_factory.mktemp("merged") / "model"
    assert invoke("merge", root / "v1", root / "patch", out).exit_code == 0
    return out


@pytest.fixture
def proxy(service: Service) -> Iterator[Proxy]:
    with Proxy(service.url) as started:
        yield started


def test_a_cut_connection_is_taken_up_by_range(service: Service, merged: Path, proxy: Proxy, tmp_path: Path) -> None:
    """The connection breaks in the middle of a file: the same run asks for the rest alone, and verifies the whole."""
    proxy.cut_down = CUT
    pulled = invoke("pull", "pulls/patch", "--on", "v1", tmp_path / "out", "--json", **service.variables(proxy.url))
    assert pulled.exit_code == 0, pulled.output
    assert json.loads(pulled.stdout)["verified"]
    assert digests(tmp_path / "out") == digests(merged)
    first, second = proxy.find("GET", SHARD)
    assert "range" not in first.headers
    start = int(second.headers["range"].removeprefix("bytes=").removesuffix("-"))
    assert CUT * 0.8 < start <= CUT
    assert second.headers["if-range"]


def test_a_killed_pull_is_taken_up_by_the_next(service: Service, merged: Path, proxy: Proxy, tmp_path: Path) -> None:
    """kill -9 of the client: nothing is visible, and running it again fetches only what is missing."""
    partial = _killed_half_way(service, proxy, tmp_path / "out")
    arrived = partial.stat().st_size
    assert CUT * 0.8 < arrived <= CUT
    again = invoke("pull", "pulls/patch", "--on", "v1", tmp_path / "out", "--json", **service.variables(proxy.url))
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["verified"]
    assert proxy.find("GET", SHARD)[-1].headers["range"] == f"bytes={arrived}-"
    assert digests(tmp_path / "out") == digests(merged)
    assert [p.name for p in tmp_path.iterdir()] == ["out"], "what was hidden is gone"


def test_corrupt_bytes_are_found_and_fetched_again(service: Service, merged: Path, proxy: Proxy, tmp_path: Path) -> None:
    """A partial file that was damaged on disk: the run ends with pull.digest, the next one repairs it."""
    partial = _killed_half_way(service, proxy, tmp_path / "out")
    with partial.open("r+b") as file:
        file.seek(partial.stat().st_size // 2)
        file.write(b"\xff" * 16)
    command = ["pull", "pulls/patch", "--on", "v1", tmp_path / "out"]
    found = invoke(*command, **service.variables())
    assert found.exit_code == 1
    assert "[pull.digest]" in found.stderr
    assert "Run the same command again" in found.stderr
    assert not (tmp_path / "out").exists()
    repaired = invoke(*command, **service.variables())
    assert repaired.exit_code == 0, repaired.output
    assert digests(tmp_path / "out") == digests(merged)


def test_what_is_left_of_another_model_is_not_mixed_in(service: Service, merged: Path, proxy: Proxy, tmp_path: Path) -> None:
    """The patch was published anew meanwhile: the partial download of the old version is thrown away."""
    _publish(service, "pulls/changing", service.root / "releases/pulls/patch")
    _killed_half_way(service, proxy, tmp_path / "out", "pulls/changing")
    _publish(service, "pulls/changing", large_patch(tmp_path / "newer", 1, 8, seed=2))
    pulled = invoke("pull", "pulls/changing", "--on", "v1", tmp_path / "out", **service.variables(proxy.url))
    assert pulled.exit_code == 0, pulled.output
    assert "range" not in proxy.find("GET", SHARD)[-1].headers
    assert digests(tmp_path / "out")[SHARD] != digests(merged)[SHARD]


def test_a_patch_is_taken_up_again_too(service: Service, merged: Path, proxy: Proxy, tmp_path: Path) -> None:
    """`portllm patch pull` was killed in the middle of the weights: the next asks for the rest, and what PEFT loads is whole."""
    published, weights = large_patch(tmp_path / "large", 1, 512, 3), "adapter_model.safetensors"
    _publish(service, "pulls/large", published)
    cut = (published / weights).stat().st_size // 2
    words = ("patch", "pull", "pulls/large", str(tmp_path / "out"))
    partial = _killed(service, proxy, words, tmp_path / ".out.partial" / weights, cut)
    arrived = partial.stat().st_size
    again = invoke(*words, **service.variables(proxy.url))
    assert again.exit_code == 0, again.output
    assert proxy.find("GET", weights)[-1].headers["range"] == f"bytes={arrived}-"
    assert digests(tmp_path / "out") == digests(published)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["large", "out"]


def _publish(service: Service, name: str, patch: Path) -> None:
    """Publishes a patch and ports it to the release."""
    for command in (["patch", "push", name, patch, "--family", "pulls", "--trained-on", "v1"], ["port", name, "--to", "v1"]):
        assert invoke(*command, **service.variables()).exit_code == 0


def _killed_half_way(service: Service, proxy: Proxy, out: Path, name: str = "pulls/patch") -> Path:
    """`portllm pull`, killed in the middle of the shard; returns the partial file."""
    partial = _killed(service, proxy, ("pull", name, "--on", "v1", str(out)), out.with_name(f".{out.name}.partial") / SHARD, CUT)
    assert not out.exists()
    return partial


def _killed(service: Service, proxy: Proxy, words: tuple[str, ...], partial: Path, cut: int) -> Path:
    """Runs `portllm` as a process and kills it when so much of a file has arrived; returns that file."""
    proxy.stall_down = cut
    command = [sys.executable, "-m", "app.cli.main", *words]
    process = subprocess.Popen(command, env=environment(**service.variables(proxy.url)))
    try:
        assert proxy.stalled.wait(60)
        until(lambda: partial.is_file() and partial.stat().st_size > cut * 0.8)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    proxy.stall_down = None
    return partial

"""A write that fails half-way leaves nothing behind, and says why."""

import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.core.errors import CoreError, PortError
from app.core.materialise import write_model
from app.core.offline import merge
from app.core.recipe import Recipe
from app.core.stream import Merger
from tests.support.files import encode, factors, integers, matrix, write_base, write_patch
from tests.support.merging import opened

MODULE = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """3 MB in two shards: several pieces each."""
    other = {"model.layers.1.self_attn.q_proj.weight": matrix((700, 1024), "BF16", 2)}
    return write_base(tmp_path / "base", [{f"{MODULE}.weight": matrix((700, 1024), "BF16", 1)}, other])


@pytest.fixture
def patch(tmp_path: Path) -> Path:
    return write_patch(tmp_path / "patch", {MODULE: factors((700, 1024), 2, "F32", 1)})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB, where this process may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not (mount := shutil.which("mount")):
        pytest.skip("no mount command here; the file size limit below stands in")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount a file system here: {done.stderr.strip()}; the file size limit below stands in")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond `limit` bytes: writes fail as on a full disk (EFBIG for ENOSPC)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def refused(merger: Merger, out: Path, code: str) -> CoreError:
    with pytest.raises(CoreError) as refusal:
        write_model(merger, out, threads=2)
    assert refusal.value.code == code
    assert not out.exists()
    assert not list(out.parent.glob(".*"))
    return refusal.value


def test_too_little_space_is_told_before_the_work(base: Path, patch: Path, small_disk: Path) -> None:
    """The float32 model needs 5.7 MB; nothing is written at all."""
    with opened(base, patch, Recipe(dtype="float32")) as merger:
        error = refused(merger, small_disk / "out", "output.no_space")
        assert error.data["needed"] == merger.plan.total_bytes
        assert error.data["free"] <= 4 * 2**20
        assert "No space left" not in error.detail  # not learned from a write
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up_while_it_is_written(base: Path, patch: Path, small_disk: Path) -> None:
    """Somebody else takes the space after the first file: what was written is removed, the rest of the disk is not touched."""
    filler = small_disk / "somebody else's"

    def fill(_: int) -> None:
        if not filler.exists():
            with filler.open("wb") as file:
                file.write(bytes(3 * 2**20))

    with opened(base, patch) as merger:
        with pytest.raises(CoreError) as refusal:
            write_model(merger, small_disk / "out", fill)
        assert refusal.value.code == "output.no_space"
        assert "No space left" in refusal.value.detail
        assert list(small_disk.iterdir()) == [filler]
        filler.unlink()
        write_model(merger, small_disk / "out")
    assert (small_disk / "out/config.json").is_file()


def test_a_file_that_cannot_grow(base: Path, patch: Path, tmp_path: Path) -> None:
    with opened(base, patch) as merger:
        with file_size_limit(1_000_000):
            refused(merger, tmp_path / "out", "output.no_space")
        write_model(merger, tmp_path / "out")
    assert (tmp_path / "out/model-00002-of-00002.safetensors").stat().st_size > 1_000_000


def test_a_refusal_in_the_middle_of_the_work(patch: Path, tmp_path: Path) -> None:
    """A value out of range in the last tensor, found when much is written already."""
    huge = encode(integers(4, 1) * 1e9, "F32")
    tensors = {f"{MODULE}.weight": matrix((700, 1024), "F32", 1), "model.norm.weight": ("F32", (4,), huge)}
    with opened(write_base(tmp_path / "base", tensors), patch, Recipe(dtype="float16")) as merger:
        error = refused(merger, tmp_path / "out", "port.overflow")
        assert isinstance(error, PortError)
        assert error.data["tensor"] == "model.norm.weight"


def test_an_error_of_the_caller_leaves_nothing(base: Path, patch: Path, tmp_path: Path) -> None:
    """A progress bar that raises, as a cancelled job does."""

    def cancel(_: int) -> None:
        raise KeyboardInterrupt

    with opened(base, patch) as merger, pytest.raises(KeyboardInterrupt):
        write_model(merger, tmp_path / "out", cancel)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


def test_killed_while_it_writes(base: Path, patch: Path, tmp_path: Path) -> None:
    """kill -9: the output does not exist; a second run succeeds and gives what an undisturbed one gives."""
    code = (
        "import sys, time; from pathlib import Path; from app.core.offline import merge\n"
        "wait = lambda _: (print('written', flush=True), time.sleep(60))\n"
        "merge(*map(Path, sys.argv[1:4]), on_plan=lambda plan: wait)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, base, patch, tmp_path / "out"], stdout=subprocess.PIPE, cwd=Path.cwd())
    assert child.stdout is not None
    assert child.stdout.readline() == b"written\n"
    child.kill()
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    assert not (tmp_path / "out").exists()
    merge(base, patch, tmp_path / "out")
    merge(base, patch, tmp_path / "again")
    for file in (tmp_path / "again").iterdir():
        assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes()


def test_two_at_once_into_one_place(base: Path, patch: Path, tmp_path: Path) -> None:
    """The one that comes second is refused, and does not spoil the first."""
    with opened(base, patch) as merger:

        def compete(_: int) -> None:
            if not (tmp_path / "out").exists():
                with opened(base, patch) as other:
                    write_model(other, tmp_path / "out")

        with pytest.raises(CoreError) as refusal:
            write_model(merger, tmp_path / "out", compete)
        assert refusal.value.code == "output.exists"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "out", "patch"]

"""A base that is changed after it was registered, or while it is read: served as registered, or not at all."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from app.core import arithmetic
from app.core.adapter import WEIGHTS_FILE
from app.core.checkpoint import read_checkpoint
from app.core.errors import CoreError
from app.core.materialise import write_model
from app.core.offline import open_directory
from app.core.patch import read_patch
from app.core.plan import make_plan
from app.core.recipe import Recipe
from app.core.source import DirectorySource, FileStat, Source, stat_of
from app.core.stream import Merger
from tests.support.merging import read

WEIGHTS = "model.safetensors"


def touched(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def rewritten_in_place(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))


def rewritten_in_place_with_the_time_set_back(path: Path) -> None:
    """Size, mtime and inode are what they were; ctime tells."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # one tick of the system's clock later
        with path.open("r+b") as file:
            file.write(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced_with_the_same_time(path: Path) -> None:
    """Same size, same mtime, another file: the inode tells."""
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(bytes(before.st_size))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def swapped_for_a_link(path: Path) -> None:
    secret = path.parent.parent / "secret"
    secret.write_bytes(b"x" * path.stat().st_size)
    path.unlink()
    path.symlink_to(secret)


def grown(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


CHANGES = [
    touched,
    rewritten_in_place,
    rewritten_in_place_with_the_time_set_back,
    replaced_with_the_same_time,
    swapped_for_a_link,
    grown,
    Path.unlink,
]


def stats(base: Path) -> dict[str, FileStat]:
    return {p.name: stat_of(p) for p in base.iterdir()}


def merger_over(base_source: Source, base: Path, patch: Path) -> Merger:
    """A merger whose plan was made from the base as it lies there now."""
    with open_directory(base) as opened, open_directory(patch) as patched:
        checkpoint = read_checkpoint(opened.source, opened.files)
        read_ = read_patch(patched.source, patched.files)
        plan = make_plan(checkpoint, read_.resolve(checkpoint), Recipe(), read_.files)
    sources = {"base": base_source, "patch": DirectorySource(patch)}
    return Merger(plan, sources, WEIGHTS_FILE, read_.header.data_start, arithmetic.load())


@pytest.mark.parametrize("change", CHANGES)
def test_changed_between_plan_and_read(change: Callable[[Path], None], base: Path, patch: Path, tmp_path: Path) -> None:
    with DirectorySource(base, stats(base)) as source:
        merger = merger_over(source, base, patch)
        change(base / WEIGHTS)
        with pytest.raises(CoreError) as refused:
            read(merger, WEIGHTS)
        assert refused.value.code == "checkpoint.changed"
        with pytest.raises(CoreError) as refused:
            write_model(merger, tmp_path / "out")
        assert refused.value.code == "checkpoint.changed"
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*.partial"))


def test_unchanged_files_are_served(base: Path, patch: Path) -> None:
    with DirectorySource(base, stats(base)) as source:
        merger = merger_over(source, base, patch)
        assert len(read(merger, WEIGHTS)) == (base / WEIGHTS).stat().st_size


def test_replaced_after_it_was_opened(base: Path, patch: Path) -> None:
    """What was opened as registered is read to its end, whatever takes its name."""
    with DirectorySource(base, stats(base)) as source:
        merger = merger_over(source, base, patch)
        whole = read(merger, WEIGHTS)
        replaced_with_the_same_time(base / WEIGHTS)
        assert read(merger, WEIGHTS) == whole


def test_rewritten_after_it_was_opened(base: Path, patch: Path) -> None:
    """An open file is looked at after each read: what was written into it is not handed on."""
    with DirectorySource(base, stats(base)) as source:
        merger = merger_over(source, base, patch)
        read(merger, WEIGHTS)
        rewritten_in_place_with_the_time_set_back(base / WEIGHTS)
        with pytest.raises(CoreError) as refused:
            read(merger, WEIGHTS)
        assert refused.value.code == "checkpoint.changed"


@pytest.mark.parametrize("expected", [True, False])
def test_cut_short_while_it_is_read(expected: bool, base: Path, patch: Path) -> None:
    with DirectorySource(base, stats(base) if expected else None) as source:
        merger = merger_over(source, base, patch)
        assert read(merger, WEIGHTS, 0, 8) == (base / WEIGHTS).read_bytes()[:8]
        os.truncate(base / WEIGHTS, 20)
        with pytest.raises(CoreError) as refused:
            read(merger, WEIGHTS)
        assert refused.value.code == "checkpoint.changed"


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_link_to_a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("expected", [True, False])
@pytest.mark.parametrize("change", [a_pipe, a_link_to_a_device])
@pytest.mark.timeout(20)
def test_a_pipe_or_device_in_place_of_a_file(change: Callable[[Path], None], expected: bool, base: Path, patch: Path) -> None:
    """Opening a pipe waits until somebody writes: the read, and all others of that release, would wait for ever."""
    with DirectorySource(base, stats(base) if expected else None) as source:
        merger = merger_over(source, base, patch)
        change(base / WEIGHTS)
        with pytest.raises(CoreError) as refused:
            read(merger, WEIGHTS)
        assert refused.value.code == "checkpoint.changed"


@pytest.mark.timeout(20)
def test_pipes_and_devices_are_not_files_of_a_model(base: Path, patch: Path, tmp_path: Path) -> None:
    """What is no regular file is passed over when a directory is listed, and never opened."""
    os.mkfifo(base / "pipe.json")
    os.mkfifo(base / "tokenizer_config.json")
    (base / "zero.json").symlink_to("/dev/zero")
    with open_directory(base) as opened:
        assert sorted(opened.files) == ["config.json", WEIGHTS]
        assert sorted(read_checkpoint(opened.source, opened.files).files) == ["config.json", WEIGHTS]


def test_a_folder_in_place_of_a_file(base: Path, patch: Path) -> None:
    with DirectorySource(base) as source:
        merger = merger_over(source, base, patch)
        (base / WEIGHTS).unlink()
        (base / WEIGHTS).mkdir()
        with pytest.raises(CoreError) as refused:
            read(merger, WEIGHTS)
        assert refused.value.code == "checkpoint.changed"

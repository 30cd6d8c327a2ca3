"""The cache of adapters: whole or not there, bounded, and shared by processes."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from app.plugins.adapter_cache import AdapterCache, File, key_of
from app.plugins.refusals import Deadline, RefusedError
from tests.support.paths import ROOT

# A process that takes an adapter of `count` bytes of one kind and tells so, then waits to be ended; a slow one.
TAKER = """
import hashlib, sys, time
from pathlib import Path
from app.plugins.adapter_cache import AdapterCache, File
from app.plugins.refusals import Deadline
root, count, kind, pause = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode(), float(sys.argv[4])
content = kind * count
def fetch(file):
    print("fetching", flush=True)
    for start in range(0, count, count // 10):
        time.sleep(pause)
        yield content[start:start + count // 10]
taken = AdapterCache(root, 10**6).take([File("w", count, hashlib.sha256(content).hexdigest())], fetch, Deadline(60))
print("taken", taken, flush=True)
sys.stdin.read()
"""


def file(content: bytes, path: str = "w") -> File:
    return File(path, len(content), hashlib.sha256(content).hexdigest())


def take(cache: AdapterCache, content: bytes, seconds: float = 30) -> Path:
    return cache.take([file(content)], lambda _: [content], Deadline(seconds))


def adapters(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if path.name != "locks"}


def started(root: Path, count: int, kind: str, pause: float = 0) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", TAKER, str(root), str(count), kind, str(pause)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ended(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait(30)


def test_what_was_taken_is_there_whole(tmp_path: Path) -> None:
    cache = AdapterCache(tmp_path / "cache", 1000)
    files = [file(b"{}", "adapter_config.json"), file(b"abc", "adapter_model.safetensors")]
    directory = cache.take(files, lambda each: [b"{}"] if each.size == 2 else [b"a", b"bc"], Deadline(30))
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {
        "adapter_config.json": b"{}", "adapter_model.safetensors": b"abc",
    }  # fmt: skip
    assert directory == tmp_path / "cache" / key_of(files)


@pytest.mark.parametrize("sent", [b"abd", b"ab", b"abcd", b""])
def test_other_bytes_leave_nothing(tmp_path: Path, sent: bytes) -> None:
    cache = AdapterCache(tmp_path, 1000)
    with pytest.raises(RefusedError) as caught:
        cache.take([file(b"abc")], lambda _: [sent], Deadline(30))
    assert caught.value.code == "resolver.digest"
    assert adapters(tmp_path) == set()
    assert take(cache, b"abc").is_dir(), "and nothing is in the way of the right ones"


def test_the_oldest_that_nobody_uses_gives_way(tmp_path: Path) -> None:
    """Used, not made: what was taken again stays."""
    old = [take(AdapterCache(tmp_path, 300), bytes([i]) * 100) for i in range(3)]  # each cache is gone, its locks are not
    for directory, age in zip(old, (30, 20, 10), strict=True):
        os.utime(directory, (time.time() - age,) * 2)
    processes_that_ended(tmp_path)
    new = take(AdapterCache(tmp_path, 300), b"n" * 100)
    assert adapters(tmp_path) == {old[1].name, old[2].name, new.name}
    assert {path.name for path in (tmp_path / "locks").iterdir()} >= {new.name}
    assert old[0].name not in {path.name for path in (tmp_path / "locks").iterdir()}


def processes_that_ended(root: Path) -> None:
    """Gives up the locks that this process holds, as its end would."""
    locks = {(each.stat().st_dev, each.stat().st_ino) for each in (root / "locks").iterdir()}
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found = os.fstat(int(descriptor.name))
        except OSError:
            continue
        if (found.st_dev, found.st_ino) in locks:
            os.close(int(descriptor.name))


def test_what_a_living_process_uses_stays(tmp_path: Path) -> None:
    """An engine reads it again at any time, and dies where it is gone; when the process has ended it may go."""
    other = started(tmp_path, 600_000, "a")
    try:
        assert line(other) == "fetching"
        used = Path(line(other).removeprefix("taken "))
        cache = AdapterCache(tmp_path, 10**6)
        with pytest.raises(RefusedError) as caught:
            take(cache, b"b" * 600_000)
        assert caught.value.code == "resolver.cache_full"
        assert adapters(tmp_path) == {used.name}
        assert (used / "w").stat().st_size == 600_000
    finally:
        ended(other)
    new = take(cache, b"b" * 600_000)
    assert adapters(tmp_path) == {new.name}


def test_processes_fetch_the_same_adapter_once(tmp_path: Path) -> None:
    """The others wait for the first."""
    processes = [started(tmp_path, 100_000, "a", pause=0.1) for _ in range(4)]
    try:
        told = [line(each) for each in processes]
        told += [line(each) for each in processes if told[processes.index(each)] == "fetching"]
        assert told.count("fetching") == 1
        (directory,) = {text.removeprefix("taken ") for text in told if text != "fetching"}
        assert (Path(directory) / "w").read_bytes() == b"a" * 100_000
    finally:
        for each in processes:
            ended(each)


def test_a_process_that_was_killed_while_it_fetched_is_no_obstacle(tmp_path: Path) -> None:
    """What it left counts until somebody needs the room, and is never taken for an adapter."""
    killed = started(tmp_path, 900_000, "a", pause=0.5)
    assert line(killed) == "fetching"
    ended(killed)
    (left,) = adapters(tmp_path)
    assert left.endswith(".partial")
    other = take(AdapterCache(tmp_path, 10**6), b"b" * 500_000)
    assert adapters(tmp_path) == {other.name}
    again = started(tmp_path, 400_000, "a")
    try:
        assert [line(again), line(again)[:5]] == ["fetching", "taken"]
    finally:
        ended(again)


def test_what_is_being_fetched_counts(tmp_path: Path) -> None:
    """With its whole size, from the beginning: two at once do not exceed the limit together."""
    slow = started(tmp_path, 600_000, "a", pause=0.3)
    try:
        assert line(slow) == "fetching"
        with pytest.raises(RefusedError) as caught:
            take(AdapterCache(tmp_path, 10**6), b"b" * 600_000)
        assert caught.value.code == "resolver.cache_full"
        assert line(slow).startswith("taken")
    finally:
        ended(slow)


def test_threads_may_take_at_once(tmp_path: Path) -> None:
    cache, taken, fetched = AdapterCache(tmp_path, 10**6), list[Path](), list[int]()

    def fetch(_: File) -> Iterable[bytes]:
        fetched.append(1)
        time.sleep(0.2)
        yield b"a" * 100

    def work() -> None:
        taken.append(cache.take([file(b"a" * 100)], fetch, Deadline(30)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), len(set(taken)), len(fetched)) == (8, 1, 1)


def test_who_waits_too_long_is_told(tmp_path: Path) -> None:
    slow = started(tmp_path, 100_000, "a", pause=2)
    try:
        assert line(slow) == "fetching"
        with pytest.raises(RefusedError) as caught:
            take(AdapterCache(tmp_path, 10**6), b"a" * 100_000, seconds=0.5)
        assert caught.value.code == "resolver.timeout"
    finally:
        ended(slow)

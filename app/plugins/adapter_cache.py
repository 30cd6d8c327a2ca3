"""Adapters in a directory, by the digest of their content: whole or not there, bounded, and shared by processes.

    ROOT/KEY/               a whole adapter; KEY: sha256 over paths, sizes and digests
    ROOT/KEY.partial/       one that is being fetched; its files have their final sizes, so that they count
    ROOT/locks/KEY          held, shared, by every process that handed the adapter to its engine, as long as it lives
    ROOT/locks/KEY.fill     held by who fetches it
    ROOT/locks/cache        held by who makes room

An engine reads an adapter again whenever it needs it, and dies when it is not there any more (vLLM 0.32). So what a living
process handed out is never removed: a cache that is full of such adapters refuses others. Locks are the kernel's (flock), so they
end with their process; the directory has to be on a local disk.
"""

import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from app.plugins.refusals import Deadline, RefusedError

PARTIAL, FILL, LOCKS = ".partial", ".fill", "locks"
CHUNK = 2**20
PAUSE_SECONDS = 0.05


class File(NamedTuple):
    """A file of an adapter: its name, size in bytes, and sha256 (hex)."""

    path: str
    size: int
    sha256: str


Fetch = Callable[[File], Iterable[bytes]]


def key_of(files: Sequence[File]) -> str:
    """Names the content of an adapter."""
    return hashlib.sha256(json.dumps(sorted(files)).encode()).hexdigest()


class AdapterCache:
    """A directory of adapters of at most `limit` bytes; made when the first one is taken."""

    def __init__(self, root: Path, limit: int) -> None:
        self._root, self._limit = root, limit
        self._held: dict[str, int] = {}  # descriptors of the locks of what was handed out
        self._mutex = threading.Lock()

    def take(self, files: Sequence[File], fetch: Fetch, deadline: Deadline) -> Path:
        """The directory of an adapter, fetched where it is not there; it stays until this process ends.

        Args:
            files: what it consists of; names without "/".
            fetch: gives the bytes of a file.
            deadline: for all of it.

        Raises:
            RefusedError: resolver.digest, resolver.too_large, resolver.cache_full, resolver.timeout, and what `fetch` raises.
            OSError: the directory cannot be used.
        """
        key = key_of(files)
        (self._root / LOCKS).mkdir(mode=0o700, parents=True, exist_ok=True)
        hold = self._acquire(key, fcntl.LOCK_SH, deadline)
        try:
            if not self._is_whole(key, files):
                with self._locked(key + FILL, deadline):
                    if not self._is_whole(key, files):  # another process may have fetched it meanwhile
                        self._fill(key, files, fetch, deadline)
            os.utime(self._root / key)  # the oldest go first
        except BaseException:
            os.close(hold)
            raise
        with self._mutex:
            if key in self._held:
                os.close(hold)
            else:
                self._held[key] = hold
        return self._root / key

    def _is_whole(self, key: str, files: Sequence[File]) -> bool:
        return all(_has(self._root / key / file.path, file) for file in files)

    def _fill(self, key: str, files: Sequence[File], fetch: Fetch, deadline: Deadline) -> None:
        partial, whole = self._root / (key + PARTIAL), self._root / key
        try:
            with self._locked("cache", deadline):
                shutil.rmtree(partial, ignore_errors=True)
                self._make_room(sum(file.size for file in files))
                partial.mkdir(mode=0o700)
                for file in files:
                    (partial / file.path).touch()
                    os.truncate(partial / file.path, file.size)
            for file in files:
                _write(partial / file.path, file, fetch(file), deadline)
            if whole.exists():  # damaged: an engine may know the directory, so it is never gone
                for file in files:
                    (partial / file.path).replace(whole / file.path)
            else:
                partial.rename(whole)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _make_room(self, needed: int) -> None:
        """Removes what was used longest ago and is not in use, until there is room."""
        if needed > self._limit:
            raise RefusedError("resolver.too_large", f"The adapter has {needed} bytes; the cache may hold {self._limit}.")
        entries = sorted(self._entries(), key=lambda entry: entry[0])
        used = sum(size for _, size, _ in entries)
        for _, size, directory in entries:
            if used + needed <= self._limit:
                return
            if self._remove(directory):
                used -= size
        if used + needed > self._limit:
            text = f"{used} of {self._limit} bytes are adapters that engines here have loaded; {needed} more are needed."
            raise RefusedError("resolver.cache_full", text)

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Of each adapter, whole or not: when it was used last, its bytes, where it lies."""
        for directory in self._root.iterdir():
            if directory.name == LOCKS or not directory.is_dir():
                continue
            with suppress(FileNotFoundError):  # a download that ended just now
                yield directory.stat().st_mtime, sum(path.stat().st_size for path in directory.iterdir()), directory

    def _remove(self, directory: Path) -> bool:
        """Removes an adapter unless it is in use; whether it did."""
        is_partial = directory.name.endswith(PARTIAL)
        name = directory.name.removesuffix(PARTIAL) + FILL if is_partial else directory.name
        lock = self._try(name, fcntl.LOCK_EX)
        if lock is None:
            return False
        try:
            shutil.rmtree(directory)
            # Who waits for a lock sees that it is another file, and opens the new one.
            for each in {name, directory.name.removesuffix(PARTIAL) + FILL}:
                (self._root / LOCKS / each).unlink(missing_ok=True)
        finally:
            os.close(lock)
        return True

    @contextmanager
    def _locked(self, name: str, deadline: Deadline) -> Iterator[None]:
        lock = self._acquire(name, fcntl.LOCK_EX, deadline)
        try:
            yield
        finally:
            os.close(lock)

    def _acquire(self, name: str, how: int, deadline: Deadline) -> int:
        """Waits for a lock; its descriptor, which holds it until it is closed."""
        while (lock := self._try(name, how)) is None:
            time.sleep(min(PAUSE_SECONDS, deadline.remaining()))
        return lock

    def _try(self, name: str, how: int) -> int | None:
        path = self._root / LOCKS / name
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, how | fcntl.LOCK_NB)
            if os.fstat(lock).st_ino == path.stat().st_ino:
                return lock
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        return None


def _has(path: Path, file: File) -> bool:
    """Whether a file is there as it should be, byte for byte."""
    try:
        if path.stat().st_size != file.size:
            return False
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256
    except FileNotFoundError:
        return False


def _write(path: Path, file: File, chunks: Iterable[bytes], deadline: Deadline) -> None:
    digest, count = hashlib.sha256(), 0
    with path.open("r+b") as out:
        for chunk in chunks:
            deadline.remaining()
            count += len(chunk)
            if count > file.size:
                break
            digest.update(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    if count != file.size or digest.hexdigest() != file.sha256:
        text = f"{file.path}: the bytes that came are not those with sha256 {file.sha256} ({count} of {file.size})."
        raise RefusedError("resolver.digest", text)

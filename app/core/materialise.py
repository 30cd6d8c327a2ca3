"""Merge to a directory: the same pieces as merge on read, written in parallel, visible only when complete."""

import os
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from app.core import arithmetic
from app.core.errors import OutputError
from app.core.fsync import sync
from app.core.stream import PIECE_BYTES, Merger, Piece

WRITE_AHEAD = 4  # pieces under way for each thread
# The disk begins to write while there is still something to compute: it halves what is left to wait for at the end.
SYNC_BYTES = 64 * 2**20


def write_model(
    merger: Merger,
    target: Path,
    progress: Callable[[int], None] | None = None,
    threads: int | None = None,
    synced: bool = True,
) -> None:
    """Writes every file of a merged model into a new directory.

    Args:
        merger: what to write.
        target: must not exist, or be an empty directory; it appears in one rename.
        progress: where given, told how many more bytes were written.
        threads: as many as are fastest by default, at most one for each core.
        synced: everything is on the disk before the directory appears, so that it is whole even after a power failure;
            otherwise the operating system writes it out when it likes, as after `cp` or PEFT's `save_pretrained`.

    Raises:
        OutputError: output.exists, output.no_space.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputError("output.exists", path=str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    needed, free = merger.plan.total_bytes, shutil.disk_usage(target.parent).free
    if needed > free:
        raise OutputError("output.no_space", path=str(target), needed=needed, free=free)
    count = threads or arithmetic.threads()
    with _staging(target) as staging, ThreadPoolExecutor(count, thread_name_prefix="merge") as pool:
        try:
            for path in merger.plan.files:
                _write_file(merger, path, staging, pool, count * WRITE_AHEAD, progress or (lambda _: None), synced)
        except OSError as error:
            free = shutil.disk_usage(target.parent).free
            raise OutputError("output.no_space", path=f"{target} ({error.strerror})", needed=needed, free=free) from None
        if synced:
            sync(staging)
        try:
            os.replace(staging, target)
        except OSError:  # somebody else made it in the meantime
            raise OutputError("output.exists", path=str(target)) from None
    if synced:
        sync(target.parent)


def _write_file(
    merger: Merger, path: str, staging: Path, pool: ThreadPoolExecutor, ahead: int, progress: Callable[[int], None], synced: bool
) -> None:
    target = staging / path
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    local = threading.local()

    def write(piece: Piece) -> int:
        # Only whole rows of blocks come here, so no piece waits for another and writes go out in parallel.
        if not hasattr(local, "scratch"):
            local.scratch = memoryview(bytearray(PIECE_BYTES))
        data, done = piece.produce(local.scratch), 0
        while done < piece.length:
            done += os.pwrite(descriptor, data[done:], piece.offset + done)
        return piece.length

    pending: deque[Future[int]] = deque()
    try:
        with _Syncing(descriptor) if synced else _NotSyncing() as syncing:
            for piece in merger.pieces(path):
                pending.append(pool.submit(write, piece))
                if len(pending) >= ahead:
                    done = pending.popleft().result()
                    syncing.written(done)
                    progress(done)
            while pending:
                progress(pending.popleft().result())
    finally:
        for future in pending:
            future.cancel()
        for future in pending:
            if not future.cancelled():
                future.exception()
        os.close(descriptor)


class _Syncing:
    """Has a file written back by a thread of its own while it grows, and waits for the rest of it at the end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._under_way: Future[None] | None = None
        self._waiting = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown()
        if error is None:
            if self._under_way:
                self._under_way.result()
            os.fsync(self._descriptor)

    def written(self, count: int) -> None:
        """Told how many more bytes were written; raises what the disk said about earlier ones."""
        self._waiting += count
        if self._waiting >= SYNC_BYTES and (self._under_way is None or self._under_way.done()):
            if self._under_way:
                self._under_way.result()
            self._under_way, self._waiting = self._pool.submit(os.fdatasync, self._descriptor), 0


class _NotSyncing(AbstractContextManager[Any]):
    """Leaves it to the operating system."""

    def __exit__(self, *_: object) -> None:
        return None

    def written(self, count: int) -> None:
        """Nothing to do."""


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A hidden directory beside the target, removed unless it became the target."""
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    staging.chmod(0o755)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)

"""Fewer, larger reads of sources that are far away: in order with read-ahead, or a window at a time."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from app.core.source import Source, read_range

BLOCK_BYTES = 8 * 2**20
AHEAD = 4
# Blocks in memory: those on their way, and those that readers a little apart still need.
HELD = 8


class ReadAhead:
    """A `Source` for reading files from some place on, in order: reads whole blocks, the next few in advance.

    Memory is bounded by `HELD` blocks of `BLOCK_BYTES`. Scattered reads are right, but cost a block each.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="read-ahead")
        self._lock = threading.Lock()
        self._blocks: OrderedDict[tuple[str, int], Future[bytearray]] = OrderedDict()

    def size(self, path: str) -> int:
        return self._source.size(path)

    def read_into(self, path: str, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            number, start = divmod(offset + done, BLOCK_BYTES)
            block = self._block(path, number)
            part = memoryview(block)[start : start + len(buffer) - done]
            if not part:  # beyond the end: the source itself says it best
                self._source.read_into(path, offset + done, buffer[done:])
                return
            buffer[done : done + len(part)] = part
            done += len(part)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._source.close()

    def _block(self, path: str, number: int) -> bytearray:
        blocks = -(-self._source.size(path) // BLOCK_BYTES)
        with self._lock:
            for wanted in range(number, max(number + 1, min(blocks, number + 1 + AHEAD))):
                if (path, wanted) not in self._blocks:
                    self._blocks[path, wanted] = self._pool.submit(self._fetch, path, wanted)
            self._blocks.move_to_end((path, number))
            future = self._blocks[path, number]
            while len(self._blocks) > HELD:  # wanted longest ago; whoever still needs one reads it again
                self._blocks.popitem(last=False)
        return future.result()

    def _fetch(self, path: str, number: int) -> bytearray:
        start = number * BLOCK_BYTES
        return read_range(self._source, path, start, max(0, min(BLOCK_BYTES, self._source.size(path) - start)))


class Windows:
    """A `Source` of which each thread may hold a window: one read of the source, which answers many small ones."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._local = threading.local()

    @contextmanager
    def hold(self, path: str, start: int, stop: int) -> Iterator[None]:
        """Reads bytes [start, stop) of a file at once and keeps them for this thread until the block ends."""
        self._local.window = (path, start, memoryview(read_range(self._source, path, start, stop - start)))
        try:
            yield
        finally:
            del self._local.window

    def size(self, path: str) -> int:
        return self._source.size(path)

    def read_into(self, path: str, offset: int, buffer: memoryview) -> None:
        held, start, content = getattr(self._local, "window", ("", 0, memoryview(b"")))
        if path == held and start <= offset and offset + len(buffer) <= start + len(content):
            buffer[:] = content[offset - start : offset - start + len(buffer)]
        else:
            self._source.read_into(path, offset, buffer)

    def close(self) -> None:
        self._source.close()

"""The task of a materialisation: writes a merged model to S3 in parts.

If the release is in the same store, bytes that the patch does not change are copied within the store; the others pass through
this process, a few parts at a time. Objects become visible when all parts of all files have been written. The files that loaders
read first (index, configuration) come last, so that an incomplete model cannot be loaded.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from app.blobs.locations import S3Location, is_far, open_location
from app.blobs.s3.client import shared_client, translated
from app.blobs.s3.target import Origin, S3Target
from app.core.checkpoint import CONFIG_FILE, INDEX_FILE
from app.core.multipart_plan import MIN_PART, MOVED_PART, Part, plan_parts
from app.core.plan import PlannedFile
from app.core.readahead import Windows
from app.core.stream import Merger
from app.jobs.tasks.context import TaskContext
from app.jobs.tasks.merging import open_merger
from app.services.ports.orders import MaterialiseOrder, MaterialiseResult, WrittenFile

THREADS = 4
# One is held by every thread, beside the part that it makes.
LARGEST_WINDOW = 2 * MOVED_PART
LAST = (INDEX_FILE, CONFIG_FILE)


def run(order: MaterialiseOrder, context: TaskContext) -> MaterialiseResult:
    """Writes a whole merged model to S3.

    Raises:
        CoreError: the target is taken, the release changed, or a value does not fit the output dtype.
    """
    target, base = order.target, order.merge.base
    origins = dict[str, Origin]()
    if isinstance(base, S3Location):
        origins = {path: Origin(base.bucket, found.key, str(found.etag)) for path, found in base.objects.items()}
    source = open_location(base)
    windows = Windows(source) if is_far(source) else None
    with open_merger(order.merge, windows or source, context.device) as merger, translated():
        tensors = sum(1 for _ in merger.plan.computed_tensors())
        report = context.start_report(merger.plan.total_bytes, "Writing", tensors)
        to = S3Target(shared_client(), target.bucket, target.prefix, order.fingerprint)
        return write_to_s3(merger, to, origins, report, windows)


def write_to_s3(
    merger: Merger,
    target: S3Target,
    origins: Mapping[str, Origin],
    report: Callable[[int, int], None],
    windows: Windows | None = None,
) -> MaterialiseResult:
    """Writes the files of a merged model that have not been written yet.

    Args:
        merger: what to write.
        target: where.
        origins: the objects of the release's files in the same store, by path; empty if they are not there.
        report: called with the number of further bytes, and of further changed tensors, that are done.
        windows: the base that `merger` reads, if each read of it is a remote request.

    Returns:
        The written files, including those that earlier attempts wrote.

    Raises:
        CoreError: the target is taken, the release changed, or a value does not fit the output dtype.
    """
    files = merger.plan.files
    present = target.present({path: file.size for path, file in files.items()})
    target.abort_all(files)  # an attempt before this one may have left parts
    for path in present:
        report(files[path].size, files[path].tensors_within(0, files[path].size))
    writing = _Writing(merger, target, origins, report, windows)
    try:
        with ThreadPoolExecutor(THREADS, thread_name_prefix="parts") as pool:
            writing.send((file for path, file in files.items() if path not in present), pool)
        writing.complete()
    except BaseException:
        writing.forget()
        raise
    all_held = [*writing.held, *(_Held(path, files[path].size, copied) for path, copied in sorted(present.items()))]
    written = tuple(WrittenFile(held.path, held.size, held.copied, held.size - held.copied) for held in all_held)
    return MaterialiseResult(written, sum(file.copied for file in written), sum(file.moved for file in written))


@dataclass
class _Held:
    """A file on its way: its upload and the ETags of its parts, or its bytes where it is too small for parts."""

    path: str
    size: int
    copied: int = 0
    upload: str | None = None
    etags: list[Future[str]] = field(default_factory=list)
    data: bytearray | None = None


class _Writing:
    """The files of one run: sent in parts, then completed together, or forgotten together."""

    def __init__(
        self,
        merger: Merger,
        target: S3Target,
        origins: Mapping[str, Origin],
        report: Callable[[int, int], None],
        windows: Windows | None,
    ) -> None:
        self._merger, self._target, self._origins, self._report, self._windows = merger, target, origins, report, windows
        self._lock = threading.Lock()
        self.held: list[_Held] = []

    def send(self, files: Iterable[PlannedFile], pool: ThreadPoolExecutor) -> None:
        """Sends all parts of all files; nothing is visible yet."""
        under_way: deque[Future[str]] = deque()
        for file in files:
            for future in self._begin(file, pool):
                under_way.append(future)
                if len(under_way) >= 2 * THREADS:
                    under_way.popleft().result()
        for future in under_way:
            future.result()

    def complete(self) -> None:
        """Makes the files visible, those last that loaders look for first."""
        for held in sorted(self.held, key=lambda held: LAST.index(held.path) if held.path in LAST else -1):
            if held.upload is not None:
                self._target.complete(held.path, held.upload, [etag.result() for etag in held.etags])
                held.upload = None
            elif held.data is not None:
                self._target.put(held.path, held.data)

    def forget(self) -> None:
        """Aborts what was begun, so that no part outlives a failure that this process survives."""
        for held in self.held:
            if held.upload is not None:
                self._target.abort(held.path, held.upload)

    def _begin(self, file: PlannedFile, pool: ThreadPoolExecutor) -> Iterator[Future[str]]:
        held = _Held(file.path, file.size)
        self.held.append(held)
        if file.size < MIN_PART:
            held.data = self._bytes(file.path, 0, file.size)
            self._done(file, 0, file.size)
            return
        parts = plan_parts(file, copies=bool(self._origins))
        held.copied = sum(part.length for part in parts if part.offset is not None)
        held.upload = self._target.begin(file.path, held.copied)
        for number, part in enumerate(parts, 1):
            held.etags.append(pool.submit(self._write, held.upload, number, part, file))
            yield held.etags[-1]

    def _write(self, upload: str, number: int, part: Part, file: PlannedFile) -> str:
        path = file.path
        if part.offset is None:
            etag = self._target.put_part(path, upload, number, self._bytes(path, part.start, part.stop))
        else:
            origin = self._origins[part.path]
            etag = self._target.copy_part(path, upload, number, origin, part.offset, part.offset + part.length)
        self._done(file, part.start, part.stop)
        return etag

    def _bytes(self, path: str, start: int, stop: int) -> bytearray:
        data = bytearray(stop - start)
        view = memoryview(data)
        with self._held(path, start, stop):
            for piece in self._merger.pieces(path, start, stop):
                piece.fill(view[piece.offset - start : piece.offset - start + piece.length])
        return data

    def _held(self, path: str, start: int, stop: int) -> AbstractContextManager[None]:
        """What the part needs of the base, in one read instead of one for every half megabyte, where it lies together."""
        reach = self._merger.reach(path, start, stop) if self._windows else {}
        if self._windows and len(reach) == 1:
            [(base, (first, last))] = reach.items()
            if last - first <= LARGEST_WINDOW:
                return self._windows.hold(base, first, last)
        return nullcontext()

    def _done(self, file: PlannedFile, start: int, stop: int) -> None:
        with self._lock:
            self._report(stop - start, file.tensors_within(start, stop))

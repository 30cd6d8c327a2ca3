"""Pulling from another hub, in a job's process: by ranges into the store's staging, where the next process finds what arrived.

What was listed is what is taken: large files are verified by the store's own sha256 before they are visible under it, all others
by git's sha1 while they are in memory. Nothing is taken for there because the store has bytes of that digest: a listing can name
any digest, so only what this pull itself verified before is not fetched again.
"""

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple, TypeVar

from app.blobs.memory import MemorySource
from app.blobs.opening import open_store
from app.blobs.store import BlobStore
from app.clients.hub import HubClient
from app.core.checkpoint import CONFIG_FILE, INDEX_FILE, choose_files
from app.core.manifest import Progress
from app.domain.errors import DomainError
from app.domain.upstreams import HubFile
from app.jobs.tasks.context import StartReport
from app.services.catalog.orders import StoredFiles, UpstreamCommit

WINDOW_BYTES = 64 * 2**20
# Of files that a hub does not keep apart from git, which it allows a few MB.
REGULAR_BYTES = 64 * 2**20
PARALLEL = 4
# What can pass is tried so often without a byte in between, with pauses in seconds that double.
ATTEMPTS, FIRST_PAUSE, LONGEST_PAUSE = 8, 0.5, 30.0
WRONG_BYTES_ATTEMPTS = 2

Value = TypeVar("Value")


class Pulled(NamedTuple):
    """Downloaded files: the source that reads them from the store, the sizes of all listed files, and the sha256 of the
    downloaded files by path.
    """

    source: StoredFiles
    digests: dict[str, str]


def pull_release(source: UpstreamCommit, start_report: StartReport) -> Pulled:
    """Fetches those files of a repository that a release carries into the store; what ingestion leaves out is not fetched.

    Raises:
        CoreError: it is not a release that can be used, as far as configuration and index tell.
        DomainError: upstream.*, outgoing.*, storage.*.
    """
    store, listed = open_store(source.store), visible(source.files)
    puller = Puller(HubClient(source.hub), source.repository, source.commit, store, source.upload)
    sizes = {path: file.size for path, file in listed.items()}
    with closing(MemorySource({p: puller.content(listed[p]) for p in (CONFIG_FILE, INDEX_FILE) if p in listed})) as known:
        wanted = [listed[path] for path in choose_files(known, sizes).carried]
    puller.report = start_report(sum(file.size for file in wanted), "Downloading")
    # Large ones first: their names keep them from being swept as garbage, however long it takes; the others are young at the end.
    digests = puller.keep_all(file for file in wanted if file.sha256)
    digests |= puller.keep_all(file for file in wanted if not file.sha256)
    return Pulled(StoredFiles(store.location(digests), sizes), digests)


def visible(files: Iterable[HubFile]) -> dict[str, HubFile]:
    """Files by path, without hidden ones, as directories and S3 are listed."""
    return {file.path: file for file in files if not any(part.startswith(".") for part in file.path.split("/"))}


class Puller:
    """Fetches files of one commit into a store.

    Args:
        hub: who has them.
        repository, commit: where they are there.
        store: where they go.
        upload: the name under which they are staged, the same for every process that goes on with it.
        report: told of every byte that is there.
    """

    def __init__(
        self, hub: HubClient, repository: str, commit: str, store: BlobStore, upload: str, report: Progress = lambda _: None
    ) -> None:
        self._hub, self._repository, self._commit, self._store, self._upload = hub, repository, commit, store, upload
        self.report = report
        self._lock, self._stopped = threading.Lock(), threading.Event()

    def keep_all(self, files: Iterable[HubFile]) -> dict[str, str]:
        """Several at a time; sha256 by path. The first that fails ends the others."""
        alike = dict[str, list[HubFile]]()
        for file in files:
            alike.setdefault(file.key, []).append(file)

        def keep(same: list[HubFile]) -> dict[str, str]:
            try:
                digest = self.keep(same[0])
            except BaseException:
                self._stopped.set()
                raise
            self._tell(same[0].size * (len(same) - 1))
            return {file.path: digest for file in same}

        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="pull") as pool:
            futures = [pool.submit(keep, same) for same in alike.values()]
            kept = dict[str, str]()
            failed: list[BaseException] = []
            for future in futures:
                error = future.exception()
                if error is not None:
                    failed.append(error)
                else:
                    kept |= future.result()
        for error in failed:
            if not isinstance(error, _StoppedError):
                raise error
        return kept

    def keep(self, file: HubFile) -> str:
        """Makes sure that a file's bytes are in the store; their sha256."""
        if file.sha256 is None:
            return self._keep_regular(file)
        verified = f"{file.key}.verified"
        if self._store.received(self._upload, verified) and self._store.size(file.sha256) == file.size:
            self._tell(file.size)
            return file.sha256
        for attempt in range(1, WRONG_BYTES_ATTEMPTS + 1):
            self._fetch(file)
            try:
                self._store.promote(self._upload, file.key, file.sha256, file.path)
            except DomainError as error:
                if error.code != "upload.digest":
                    raise
                self._tell(-file.size)
                if attempt == WRONG_BYTES_ATTEMPTS:
                    raise self._hub.changed(file.path, f"its bytes have sha256 {error.data['actual']}") from None
            else:
                break
        if not self._store.received(self._upload, verified):
            self._store.append(self._upload, verified, 0, b"1")
        return file.sha256

    def content(self, file: HubFile) -> bytes:
        """A small file, verified.

        Raises:
            DomainError: upstream.changed, also for one that is too large to be one; as `HubClient.read`.
        """
        if file.size > REGULAR_BYTES:
            raise self._hub.changed(file.path, f"it has {file.size} bytes, more than the {REGULAR_BYTES} of a small file")
        patience = _Patience(self._stopped)
        while True:
            held = bytearray()
            try:
                with self._hub.read(self._repository, self._commit, file, 0, file.size) as pieces:
                    for piece in pieces:
                        held += piece
                self._require_whole(file, len(held))
            except DomainError as error:
                patience.wait(error)
                continue
            if _is_content(file, bytes(held)):
                return bytes(held)
            patience.wait_once(self._hub.changed(file.path, "its bytes have another digest"))

    def _keep_regular(self, file: HubFile) -> str:
        data = self.content(file)
        digest = hashlib.sha256(data).hexdigest()
        offset = self._store.received(self._upload, file.key)
        for start in range(offset, len(data), self._store.write_bytes):
            self._store.append(self._upload, file.key, start, data[start : start + self._store.write_bytes])
        self._store.promote(self._upload, file.key, digest, file.path)
        self._tell(len(data))
        return digest

    def _fetch(self, file: HubFile) -> None:
        """Stages the bytes of a file that are not staged yet, window by window."""
        offset, patience = self._store.received(self._upload, file.key), _Patience(self._stopped)
        self._tell(min(offset, file.size))
        while offset < file.size:
            before = offset
            try:
                with self._hub.read(
                    self._repository, self._commit, file, offset, min(WINDOW_BYTES, file.size - offset)
                ) as pieces:
                    for part in _gathered(pieces, self._store.write_bytes):
                        offset = self._store.append(self._upload, file.key, offset, part)
                        self._tell(len(part))
                        patience.reward()
                        if self._stopped.is_set():
                            raise _StoppedError
                if offset == before:
                    self._require_whole(file, 0)
            except DomainError as error:
                # Another process may be at it still, whose worker lost the job: both bring the same bytes.
                found = self._store.received(self._upload, file.key) if error.code == "upload.offset" else offset
                self._tell(found - offset)
                offset = found
                patience.wait(error)

    def _require_whole(self, file: HubFile, count: int) -> None:
        if count < file.size:
            reason, what = "the connection ended early", f"file {file.path!r}"
            raise DomainError("upstream.unavailable", upstream=self._hub.hub.name, what=what, reason=reason, seconds=None)

    def _tell(self, more: int) -> None:
        with self._lock:
            self.report(more)


def retry_while_unavailable(ask: Callable[[], Value]) -> Value:
    """An answer of a hub, asked for again where it may come later."""
    patience = _Patience(threading.Event())
    while True:
        try:
            return ask()
        except DomainError as error:
            patience.wait(error)


class _StoppedError(Exception):
    """Another file failed."""


class _Patience:
    """How often something is tried again, and how long after; a byte in between makes it as patient as ever."""

    def __init__(self, stopped: threading.Event) -> None:
        self._stopped, self._failures, self._wrong = stopped, 0, 0

    def reward(self) -> None:
        self._failures = 0

    def wait(self, error: DomainError) -> None:
        """Waits, or raises the error where it cannot pass or came too often."""
        if error.kind != "busy" and error.code != "upload.offset":
            raise error
        self._failures += 1
        if self._failures >= ATTEMPTS:
            raise error
        pause = min(FIRST_PAUSE * 2 ** (self._failures - 1), LONGEST_PAUSE) * random.uniform(0.8, 1.2)  # noqa: S311
        if self._stopped.wait(max(pause, error.data.get("seconds") or 0.0)):
            raise _StoppedError

    def wait_once(self, error: DomainError) -> None:
        """For bytes that are wrong: they may have been damaged on the way once, not again and again."""
        self._wrong += 1
        if self._wrong >= WRONG_BYTES_ATTEMPTS:
            raise error
        time.sleep(FIRST_PAUSE)


def _is_content(file: HubFile, data: bytes) -> bool:
    if file.sha256:
        return hashlib.sha256(data).hexdigest() == file.sha256
    # Git's name of a file: that is what the hub tells, and all there is to compare with.
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == file.git_sha1


def _gathered(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Pieces put together to about the size that the store likes; what came before an error is given out before it."""
    held, failed = bytearray(), None
    try:
        for piece in pieces:
            held += piece
            if len(held) >= size:
                yield bytes(held)
                held.clear()
    except DomainError as error:
        failed = error
    if held:
        yield bytes(held)
    if failed:
        raise failed

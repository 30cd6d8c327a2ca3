"""Starts processes for jobs: forks of one that has imported what they use, or, where the system cannot, programs of their own."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from typing import IO, Protocol, cast

MAX_LINE = 8 * 2**20
# numpy's threads, which nothing here uses, would be lost in a fork.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}


class Launched(Protocol):
    """A job's process: as much of `asyncio.subprocess.Process` as is used here."""

    pid: int
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader

    @property
    def returncode(self) -> int | None:
        """How it ended; minus the signal that ended it."""

    async def wait(self) -> int:
        """Waits for its end."""

    def terminate(self) -> None:
        """SIGTERM."""

    def kill(self) -> None:
        """SIGKILL."""


class LaunchError(Exception):
    """The process that forks ended before it could."""


async def launch(common: Mapping[str, str], own: Mapping[str, str], modules: Sequence[str]) -> Launched:
    """Starts a process that waits for its order.

    Args:
        common: what the environment of every job's process holds.
        own: what this one's holds beside it.
        modules: what the job will import.

    Raises:
        LaunchError: it could not be forked, twice.
    """
    if not can_fork():
        return await execute({**common, **own})
    try:
        return await _FORKS.fork(common, own, modules)
    except LaunchError:  # it was killed since the last job; another takes its place
        return await _FORKS.fork(common, own, modules)


@cache
def can_fork() -> bool:
    """Whether this system has what is needed to follow a process that another one forked (Linux 5.3)."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


async def execute(environment: Mapping[str, str]) -> Launched:
    """A program of its own."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *_python("app.jobs.child"), stdin=pipe, stdout=pipe, stderr=pipe, env=_with_path(environment), limit=MAX_LINE,
        start_new_session=True,
    )  # fmt: skip
    return cast(Launched, process)  # its pipes are there: they were asked for


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", module, *arguments]


def _with_path(environment: Mapping[str, str]) -> dict[str, str]:
    return {**environment, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


class Forks:
    """The process that forks, started for the first job; it ends with this process, which holds the other end of its line."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    async def fork(self, common: Mapping[str, str], own: Mapping[str, str], modules: Sequence[str]) -> Launched:
        """A process that was forked, see `launch`.

        Raises:
            LaunchError: the process that forks has ended.
        """
        (stdin, to_stdin), *reads = os.pipe(), os.pipe(), os.pipe(), os.pipe()
        theirs = [stdin, *(write for _, write in reads)]
        try:
            order = {"environment": {**common, **own}, "modules": [*modules]}
            self._send(json.dumps(order).encode(), theirs, common)
        except BaseException:
            for file in (to_stdin, *(read for read, _ in reads)):
                os.close(file)
            raise
        finally:
            for file in theirs:
                os.close(file)
        writing, reading = os.fdopen(to_stdin, "wb", buffering=0), [os.fdopen(read, "rb", buffering=0) for read, _ in reads]
        writer = await _writer(writing)
        try:
            stdout, stderr, told = [await _reader(pipe) for pipe in reading]
            if first := await told.readline():
                return Forked(int(first), writer, stdout, stderr, told)
            raise LaunchError("the process that forks could not, or ended")
        except BaseException:  # the job was cancelled meanwhile, for one: the end of its stdin ends whatever is forked
            writer.close()
            raise

    def close(self) -> None:
        """Ends it; jobs that run go on."""
        with self._lock:
            if self._line and self._process:
                self._line.close()
                self._process.wait()
            self._line = self._process = None

    def _send(self, order: bytes, files: list[int], common: Mapping[str, str]) -> None:
        with self._lock:
            if self._process is None or self._line is None or self._process.poll() is not None:
                self._start(common)
            assert self._line is not None  # noqa: S101  just started
            try:
                socket.send_fds(self._line, [order], files)
            except OSError as error:
                raise LaunchError(f"the process that forks ended: {error}") from error

    def _start(self, common: Mapping[str, str]) -> None:
        """It is given what every job is given, and no more: whatever it knew, they all would."""
        if self._line:  # of one that ended
            self._line.close()
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  this program
                _python("app.jobs.fork_server", str(theirs.fileno())), env=_with_path(common) | ONE_THREAD,
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip


class Forked:
    """A process that the one that forks began, `Launched`."""

    def __init__(
        self, pid: int, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader,
        told: asyncio.StreamReader,
    ) -> None:  # fmt: skip
        self.pid, self.stdin, self.stdout, self.stderr = pid, stdin, stdout, stderr
        self.returncode: int | None = None
        self._told = told
        # Unlike its id, which another process can have by now, this is of no other.
        self._handle: int | None = None
        with contextlib.suppress(ProcessLookupError):
            self._handle = os.pidfd_open(pid)

    async def wait(self) -> int:
        if self.returncode is None:
            said = await self._told.readline()
            # Without a word: the process that would say it was killed. The end of its stdin ends this one too.
            self.returncode = int(said) if said else -signal.SIGKILL
            self.stdin.close()
            if self._handle is not None:
                os.close(self._handle)
        return self.returncode

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.returncode is None and self._handle is not None:
            signal.pidfd_send_signal(self._handle, number)


async def _reader(pipe: IO[bytes]) -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(MAX_LINE, loop)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader, loop=loop), pipe)
    return reader


async def _writer(pipe: IO[bytes]) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe)
    return asyncio.StreamWriter(transport, protocol, None, loop)


_FORKS = Forks()

"""Starts processes for jobs: forks of one that has imported what they use, or, where the system cannot, programs of their own."""

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from functools import cache
from typing import IO, Protocol, cast

MAX_LINE = 8 * 2**20
MAX_TEXT = 2000
# It may have to import torch from a cold and distant disk first; how a process ended it says within a moment.
START_SECONDS, TOLD_SECONDS = 120.0, 5.0
# How a process ended that nobody could wait for.
UNKNOWN = 255
# numpy's threads, which nothing here uses, would be lost in a fork.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
log = logging.getLogger("portllm.job")


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
    """No process could be forked; the argument says why."""


async def launch(common: Mapping[str, str], own: Mapping[str, str], modules: Sequence[str]) -> Launched:
    """Starts a process that waits for its order.

    Args:
        common: what the environment of every job's process holds.
        own: what this one's holds beside it.
        modules: what the job will import.

    Raises:
        OSError: there is no room for a process.
    """
    if can_fork():
        try:
            return await _FORKS.fork(common, own, modules)
        except LaunchError as error:
            log.warning("a job's process is executed, which takes seconds longer: %s", error)
    return await execute({**common, **own})


def stop() -> None:
    """Ends the process that forks, where one was started; the next job would start another."""
    _FORKS.close()


@cache
def can_fork() -> bool:
    """Whether this system has what is needed to follow a process that another one forked (Linux 5.3)."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except AttributeError:
        return False
    except OSError as error:  # anything else may pass
        return error.errno not in (errno.ENOSYS, errno.EPERM, errno.EINVAL)
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
    """The process that forks, started for the first job; at the latest it ends with this process, which holds its line."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    async def fork(self, common: Mapping[str, str], own: Mapping[str, str], modules: Sequence[str]) -> Launched:
        """A process that was forked, see `launch`.

        Raises:
            LaunchError: it could not be.
        """
        stdin, *outputs, told = self._ask(json.dumps({"modules": [*modules]}).encode(), common)
        writer = await _writer(stdin)
        try:
            stdout, stderr = [await _reader(pipe) for pipe in outputs]
            try:
                first, handles = await asyncio.wait_for(_hear(told), START_SECONDS)
            except TimeoutError:
                self.close()
                raise LaunchError("the process that forks does not answer") from None
            if not handles:
                raise LaunchError("the process that forks has no room for another, or ended")
            writer.write(json.dumps({**common, **own}).encode() + b"\n")
            return Forked(int(first), handles[0], writer, stdout, stderr, told)
        except BaseException:  # the job was cancelled, for one: whatever is forked all the same, its stdin ends, and so does it
            writer.close()
            told.close()
            raise

    def _ask(self, order: bytes, common: Mapping[str, str]) -> tuple[IO[bytes], IO[bytes], IO[bytes], socket.socket]:
        """Sends an order with one end of three pipes and a socket; returns the other ends: stdin, stdout, stderr, socket."""
        with contextlib.ExitStack() as stack:
            try:
                pipes = [_pipe(stack) for _ in range(3)]
                told, telling = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                stack.callback(told.close)
                stack.callback(telling.close)
                theirs: list[IO[bytes] | socket.socket] = [pipes[0][0], pipes[1][1], pipes[2][1], telling]
                self._send(order, [file.fileno() for file in theirs], common)
            except OSError as error:
                raise LaunchError(f"nothing could be asked of the process that forks: {error}") from error
            stack.pop_all()
            for file in theirs:
                file.close()
        told.setblocking(False)
        return pipes[0][1], pipes[1][0], pipes[2][0], told

    def close(self) -> None:
        """Ends it; jobs that run go on."""
        with self._lock:
            if self._line and self._process:
                self._line.close()
                self._process.kill()
                self._process.wait()
            self._line = self._process = None

    def _send(self, order: bytes, files: list[int], common: Mapping[str, str]) -> None:
        with self._lock:
            if self._line and self._process and self._process.poll() is None:
                with contextlib.suppress(OSError):  # it ends just now, takes no more, or has too much to do
                    socket.send_fds(self._line, [order], files, socket.MSG_DONTWAIT)
                    return
            # Those that it forked before keep it until they have ended.
            self._start(common)
            assert self._line is not None  # noqa: S101  just started
            socket.send_fds(self._line, [order], files, socket.MSG_DONTWAIT)

    def _start(self, common: Mapping[str, str]) -> None:
        """It is given what every job is given, and no more: whatever it knew, they all would."""
        if self._line:
            self._line.close()
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  this program
                _python("app.jobs.fork_server", str(theirs.fileno())), env=_with_path(common) | ONE_THREAD,
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
        threading.Thread(target=_log_complaints, args=(self._process,), name="forks", daemon=True).start()


def _log_complaints(process: subprocess.Popen[bytes]) -> None:
    """What the process that forks complains of, as lines of this one's log; its end is noticed here too."""
    assert process.stderr is not None  # noqa: S101  asked for
    with process.stderr as stream:
        for line in stream:
            log_lines(line)
    process.wait()


def log_lines(data: bytes) -> None:
    """What another process wrote to its standard error, as lines of this one's log."""
    for text in data.decode(errors="replace").splitlines():
        if text.strip():
            log.warning("%s", text[:MAX_TEXT])


class Forked:
    """A process that the one that forks began, `Launched`."""

    def __init__(
        self, pid: int, handle: int, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader,
        told: socket.socket,
    ) -> None:  # fmt: skip
        self.pid, self.stdin, self.stdout, self.stderr = pid, stdin, stdout, stderr
        self.returncode: int | None = None
        # The process id may have been reused by now; the handle (pidfd) always refers to this process.
        self._handle, self._told, self._one_waits = handle, told, asyncio.Lock()
        self._close = weakref.finalize(self, _close, handle, told)

    async def wait(self) -> int:
        async with self._one_waits:
            if self.returncode is not None:
                return self.returncode
            await _until_readable(self._handle)
            said = b""
            with contextlib.suppress(TimeoutError):
                said, _ = await asyncio.wait_for(_hear(self._told), TOLD_SECONDS)
            self.stdin.close()
            self._close()
            self.returncode = int(said) if said else UNKNOWN
            return self.returncode

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)


def _close(handle: int, told: socket.socket) -> None:
    os.close(handle)
    told.close()


async def _hear(told: socket.socket) -> tuple[bytes, list[int]]:
    """Returns the next message of the fork server and the descriptors sent with it; both are empty if it ended."""
    await _until_readable(told.fileno())
    message, files, *_ = socket.recv_fds(told, MAX_TEXT, 1)
    return message, files


async def _until_readable(handle: int) -> None:
    """Waits until a socket has a message, or until a process ends (by its pidfd), even if the process was already reaped."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    loop.add_reader(handle, _settle, ended)
    try:
        await ended
    finally:
        loop.remove_reader(handle)


def _settle(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def _pipe(stack: contextlib.ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    """Both ends of a pipe; what is not closed at the end of a stack is closed by it."""
    reading, writing = os.pipe()
    ends = os.fdopen(reading, "rb", buffering=0), os.fdopen(writing, "wb", buffering=0)
    for end in ends:
        stack.callback(end.close)
    return ends


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

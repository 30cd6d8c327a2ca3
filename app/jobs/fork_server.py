"""The process that job processes are forked from, as a program: `python -m app.jobs.fork_server FD`.

It has already imported the modules that jobs use, so that a job starts at once and not after seconds of imports. It has a single
thread and no open resources that a fork must not share. It holds no secret that any job must not see, because every fork inherits
its memory. Requests arrive over the socket FD, each a JSON object with the four file descriptors of a process:

    {"modules": [...]}        its stdin, stdout and stderr, and a socket for its id and exit status

Over that socket this program sends the process's id together with its pidfd, which is opened before anything can wait for the
process, so that it cannot refer to another one; later it sends the exit status (negative: the signal that ended the process). If
the socket closes without them, the process could not be forked, or this program ended. A process first reads its environment,
one line of JSON, and then becomes `app.jobs.child`.

Why not the fork server of `multiprocessing` (tried with CPython 3.11, against tests/live/test_launch.py):
- It is started with the environment and the session of its parent; neither can be chosen, except with a shell script as the
  executable of all of `multiprocessing`.
- If `os.fork` fails for lack of memory, the server exits, and the exit status of every running job is lost: each reads 255.
- `Process.start` waits for its answer without a timeout: a stopped server blocks the calling thread, which cannot be cancelled.
- The list of modules to preload is fixed at its start, so every server would hold torch and boto3, needed or not; an import that
  fails with anything but ImportError ends it before its first job.
- It reaps a job before its parent knows of the end, and the parent signals by process id, so it may hit another process. There is
  no pidfd.
- A job inherits five more descriptors, among them those that keep the server and the resource tracker (another process) alive.
  Its order is a pickle, and reading it imports the `__main__` of the parent again.
"""

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from app.jobs import child

LONGEST_ORDER = 2**20
FILES = 4
# What `ps -o comm` and `top` show of a job's process, and of this one.
JOB, SERVER = "portllm-job", "portllm-forks"


@dataclass(frozen=True)
class _Forked:
    """A process that runs: its id, its pidfd, and the socket over which its exit status is sent."""

    pid: int
    handle: int
    status: socket.socket

    def close(self) -> None:
        os.close(self.handle)
        self.status.close()


class ForkServer:
    """Forks for the process that holds the other end of a socket."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._selector = selectors.DefaultSelector()
        self._selector.register(line, selectors.EVENT_READ)
        self._forked: set[_Forked] = set()

    def serve(self) -> bool:
        """Serves requests: returns True in each forked process, and False when the socket has closed and all processes ended."""
        while self._selector.get_map():
            for key, _ in self._selector.select():
                if isinstance(key.data, _Forked):
                    self._bury(key.data)
                    continue
                text, files, *_ = socket.recv_fds(self._line, LONGEST_ORDER, FILES)
                if not text:
                    self._take_no_more()
                elif len(files) < FILES:  # too many open files; the parent sees the socket close
                    _close(files)
                elif self._fork(json.loads(text)["modules"], files):
                    return True
        return False

    def _fork(self, modules: list[str], files: list[int]) -> bool:
        """Forks; returns True in the new process. If the fork fails, closes the files, which the parent sees."""
        if not _prepare(modules):
            # A module that failed is half imported, and would fail in every later process: leave those to another server.
            self._take_no_more()
        streams, status = files[:3], socket.socket(fileno=files[3])
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError:
            _close(streams)
            status.close()
            return False
        if not pid:
            self._let_go()
            status.close()
            _become(streams)
            return True
        _close(streams)
        try:
            handle = os.pidfd_open(pid)
        except OSError:  # a process that cannot be supervised must not continue
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            status.close()
            return False
        forked = _Forked(pid, handle, status)
        self._forked.add(forked)
        self._selector.register(handle, selectors.EVENT_READ, forked)
        with contextlib.suppress(OSError):  # the reader has closed its end
            socket.send_fds(status, [str(pid).encode()], [handle])
        return False

    def _take_no_more(self) -> None:
        self._selector.unregister(self._line)
        self._line.close()

    def _bury(self, forked: _Forked) -> None:
        self._selector.unregister(forked.handle)
        self._forked.remove(forked)
        code = os.waitstatus_to_exitcode(os.waitpid(forked.pid, 0)[1])
        with contextlib.suppress(OSError):  # the reader has closed its end
            forked.status.send(f"{code}\n".encode())
        forked.close()

    def _let_go(self) -> None:
        """In a new process: closes all that is the server's."""
        self._selector.close()
        self._line.close()
        for forked in self._forked:
            forked.close()


def _prepare(modules: list[str]) -> bool:
    """Imports what a job will use; returns whether that succeeded. The job itself reports an import that fails."""
    new, went_well = [name for name in modules if name not in sys.modules], True
    for name in new:
        try:
            importlib.import_module(name)
        except Exception:  # noqa: BLE001  whatever the module raises
            went_well = False
    if new:
        # All forks share the memory of these modules: a garbage collector that wrote to it would copy it into each.
        gc.collect()
        gc.freeze()
    return went_well


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


def _become(streams: list[int]) -> None:
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    _close(streams)
    tempfile.tempdir = None
    _name(JOB)


def _learn_environment() -> None:
    """Reads the environment from the first line of stdin, because the server never has the secrets of a job."""
    environment = child.hear()
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()


def _name(name: str) -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def main() -> None:
    """Serves fork requests, and does one job in each forked process."""
    _name(SERVER)
    # A parent may ignore SIGCHLD, which is inherited; here children must be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    gc.freeze()
    if not ForkServer(socket.socket(fileno=int(sys.argv[1]))).serve():
        return
    code = 0
    try:
        _learn_environment()
        child.main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:  # noqa: BLE001  as Python would: any exception ends this process
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):  # the reader has closed its end
        sys.stdout.flush()
    # Not sys.exit: the server's exit handlers must not run here.
    os._exit(code)


if __name__ == "__main__":
    main()

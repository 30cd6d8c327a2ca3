"""The process that job processes are forked from, as a program: `python -m app.jobs.fork_server FD`.

It has already imported the modules that jobs use, so that a job starts at once and not after seconds of imports. It has a single
thread and no open resources that a fork must not share. It holds no secret that any job must not see, because every fork inherits
its memory. Orders arrive over the socket FD, each a JSON object with the four file descriptors of a process:

    {"modules": [...]}        its stdin, stdout and stderr, and a socket for its id and exit status

Over that socket this program sends the process's id together with its pidfd, which is opened before anything can wait for the
process, so that it cannot refer to another one; later it sends the exit status (negative: the signal that ended the process). If
the socket closes without them, the process could not be forked, or this program ended. A process first reads its environment,
one line of JSON, and then becomes `app.jobs.child`.
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
    """A process that runs: its id, a handle that can be waited for, and where its end is told."""

    pid: int
    handle: int
    told: int


class ForkServer:
    """Forks for whoever holds the other end of a line."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._selector = selectors.DefaultSelector()
        self._selector.register(line, selectors.EVENT_READ)
        self._forked: set[_Forked] = set()

    def serve(self) -> bool:
        """Forks as it is told: True in each process that it forks; False when nobody tells it anything and all have ended."""
        while self._selector.get_map():
            for key, _ in self._selector.select():
                if isinstance(key.data, _Forked):
                    self._bury(key.data)
                    continue
                text, files, *_ = socket.recv_fds(self._line, LONGEST_ORDER, FILES)
                if not text:
                    self._take_no_more()
                elif len(files) < FILES:  # no room for so many open files; whoever waits for them sees them end
                    _close(files)
                elif self._fork(json.loads(text)["modules"], files):
                    return True
        return False

    def _fork(self, modules: list[str], files: list[int]) -> bool:
        """True in the new process. Where there is no room for one, the files are closed, which says it."""
        if not _prepare(modules):
            # What failed once is half there, and would fail in every process after this one: let them be another's.
            self._take_no_more()
        *given, told = files
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError:
            _close(files)
            return False
        if not pid:
            self._let_go()
            _become(files)
            return True
        _close(given)
        try:
            handle = os.pidfd_open(pid)
        except OSError:  # whom it cannot follow it does not leave behind
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(told)
            return False
        forked = _Forked(pid, handle, told)
        self._forked.add(forked)
        self._selector.register(handle, selectors.EVENT_READ, forked)
        _announce(told, pid, handle)
        return False

    def _take_no_more(self) -> None:
        self._selector.unregister(self._line)
        self._line.close()

    def _bury(self, forked: _Forked) -> None:
        self._selector.unregister(forked.handle)
        self._forked.remove(forked)
        _tell(forked.told, os.waitstatus_to_exitcode(os.waitpid(forked.pid, 0)[1]))
        _close([forked.handle, forked.told])

    def _let_go(self) -> None:
        """In a new process: closes all that is the server's."""
        self._selector.close()
        self._line.close()
        for forked in self._forked:
            _close([forked.handle, forked.told])


def _prepare(modules: list[str]) -> bool:
    """Imports what a job will use; whether that went well. What cannot be imported is the job's to say."""
    new, went_well = [name for name in modules if name not in sys.modules], True
    for name in new:
        try:
            importlib.import_module(name)
        except Exception:  # noqa: BLE001  whatever the module raises
            went_well = False
    if new:
        # What is there now is shared by all that are forked: a collector that wrote to it would copy it into each.
        gc.collect()
        gc.freeze()
    return went_well


def _announce(told: int, pid: int, handle: int) -> None:
    """Sends the id of a process and its handle (pidfd)."""
    line = socket.socket(fileno=told)
    try:
        with contextlib.suppress(OSError):  # the reader has closed its end
            socket.send_fds(line, [str(pid).encode()], [handle])
    finally:
        line.detach()


def _tell(file: int, number: int) -> None:
    with contextlib.suppress(OSError):  # the reader has closed its end
        os.write(file, f"{number}\n".encode())


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


def _become(files: list[int]) -> None:
    os.setsid()
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    _close(files)
    tempfile.tempdir = None
    _name(JOB)


def _learn_environment() -> None:
    """The first line: what is this job's alone was never the server's."""
    environment = child.hear()
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()


def _name(name: str) -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def main() -> None:
    """Forks, and does one job in each process that is forked."""
    _name(SERVER)
    # A parent may ignore the ends of its children, and hand that down: here they are waited for.
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
    except BaseException:  # noqa: BLE001  as Python would: whatever it was, it ends this process
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):  # the reader has closed its end
        sys.stdout.flush()
    # What the server registered for its own end is not this process's to do.
    os._exit(code)


if __name__ == "__main__":
    main()

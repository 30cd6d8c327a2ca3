"""The process that job processes are forked from, as a program: `python -m app.jobs.fork_server FD`.

It has imported what jobs use, so that a job begins at once and not after seconds of imports; it has one thread, and opened
nothing that a fork must not share. Over the socket FD come orders, each one JSON object with the four files of a process:

    {"environment": {...}, "modules": [...]}        stdin, stdout, stderr, and where it is said what became of the process

There it says, a line each, the process's id, and when it ended its exit status (minus the signal that ended it). The end of
the socket, or of a file without the second line, means that this program ended.
"""

import contextlib
import gc
import importlib
import json
import os
import selectors
import socket
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.jobs import child

LONGEST_ORDER = 2**20
FILES = 4
# What `ps -o comm` and `top` show of a job's process; of this one, the rest of the name of the program.
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
        """Forks as it is told: True in each process that it forks; False when nobody is left to tell it anything."""
        while True:
            for key, _ in self._selector.select():
                if isinstance(key.data, _Forked):
                    self._bury(key.data)
                    continue
                text, files, *_ = socket.recv_fds(self._line, LONGEST_ORDER, FILES)
                if not text:
                    return False
                if self._fork(json.loads(text), files):
                    return True

    def _fork(self, order: dict[str, Any], files: list[int]) -> bool:
        """True in the new process. Where there is no room for one, the files are closed, which says it."""
        _prepare(order["modules"])
        *given, told = files
        try:
            pid = os.fork()
        except OSError:
            given.append(told)
            pid = -1
        if not pid:
            self._let_go()
            _become(order["environment"], files)
            return True
        for file in given:
            os.close(file)
        if pid < 0:
            return False
        forked = _Forked(pid, os.pidfd_open(pid), told)
        self._forked.add(forked)
        self._selector.register(forked.handle, selectors.EVENT_READ, forked)
        _tell(told, pid)
        return False

    def _bury(self, forked: _Forked) -> None:
        self._selector.unregister(forked.handle)
        self._forked.remove(forked)
        _tell(forked.told, os.waitstatus_to_exitcode(os.waitpid(forked.pid, 0)[1]))
        os.close(forked.handle)
        os.close(forked.told)

    def _let_go(self) -> None:
        """In a new process: closes all that is the server's."""
        self._selector.close()
        self._line.close()
        for forked in self._forked:
            os.close(forked.handle)
            os.close(forked.told)


def _prepare(modules: list[str]) -> None:
    """Imports what a job will use. What cannot be imported is the job's to say."""
    new = [name for name in modules if name not in sys.modules]
    for name in new:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    if new:
        # What is there now is shared by all that are forked: a collector that wrote to it would copy it into each.
        gc.collect()
        gc.freeze()


def _tell(file: int, number: int) -> None:
    with contextlib.suppress(OSError):  # nobody reads it any more
        os.write(file, f"{number}\n".encode())


def _become(environment: dict[str, str], files: list[int]) -> None:
    os.setsid()
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    time.tzset()
    _name(JOB)


def _name(name: str) -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def main() -> None:
    """Forks, and does one job in each process that is forked."""
    _name(SERVER)
    gc.freeze()
    if not ForkServer(socket.socket(fileno=int(sys.argv[1]))).serve():
        return
    code = 0
    try:
        child.main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:  # noqa: BLE001  as Python would: whatever it was, it ends this process
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):  # nobody reads it any more
        sys.stdout.flush()
    # What the server registered for its own end is not this process's to do.
    os._exit(code)


if __name__ == "__main__":
    main()

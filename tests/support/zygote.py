"""Starts `portllm` without the second or two that every start spends on imports.

A process that has imported all that services and workers use waits here, and forks into what a test asks for: the same entry
point, with an environment, arguments and files of its own. From then on it is a process like any other: it is signalled,
killed, and asked how it ended. Where a start itself is tested (images, the quickstart, several processes, another clock),
`portllm` is executed as usual.

A service or a worker of these finds the process that forks its jobs forked already, before it has threads: that one would
import torch once more. It is there for the first job; where it ends, the next is executed as usual.

As a program (`python -m tests.support.zygote FD`): the process that waits.
"""

import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

from app.jobs import fork_server, spawn

# What verbs import when they run, beside what `app.cli.main` imports.
LATE = (
    "app.main", "app.worker", "app.api.worker", "app.hub.app", "app.core.tensor", "app.cli.protocol", "app.cli.serve", "uvicorn",
    "uvicorn.lifespan.on", "uvicorn.loops.auto", "uvloop", "boto3", "botocore.client", "dbos", "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.dialects.sqlite.pysqlite", "anyio._backends._asyncio", "torch",
)  # fmt: skip
LONGEST_ORDER = 2**20
# They must be there before a process begins.
AT_BIRTH = ("LD_PRELOAD", "OMP_", "MKL_", "PYTHON", "PROMETHEUS_")


class Forked:
    """A process that was forked: as much of `subprocess.Popen` as tests use."""

    def __init__(self, zygote: "Zygote", pid: int) -> None:
        self._zygote, self.pid = zygote, pid
        self.returncode: int | None = None
        self._handle = os.pidfd_open(pid)

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._handle], [], [], 0)[0]:
            self.returncode = self._zygote.ask({"ended": self.pid})
            os.close(self._handle)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            select.select([self._handle], [], [], timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired("portllm", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Zygote:
    """The process that waits, and the line to it."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.support.zygote", str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()
        self._lock = threading.Lock()

    def fork(
        self, arguments: Sequence[str], out: IO[bytes], errors: IO[bytes], environment: Mapping[str, str], ahead: bool
    ) -> Forked:
        """A process that runs `portllm` with these arguments."""
        files = [out.fileno(), errors.fileno()]
        return Forked(self, self.ask({"arguments": [*arguments], "environment": {**environment}, "ahead": ahead}, files))

    def ask(self, order: dict[str, Any], files: Sequence[int] = ()) -> int:
        with self._lock:
            socket.send_fds(self._line, [json.dumps(order).encode()], [*files])
            answer = self._line.recv(LONGEST_ORDER)
        assert answer, f"the process that forks ended with {self._process.wait()}"
        return int(answer)


def start(
    arguments: Sequence[str], out: IO[bytes], errors: IO[bytes], environment: Mapping[str, str], ahead: bool = True
) -> "subprocess.Popen[bytes] | Forked":
    """`portllm serve` or `portllm worker` as a process.

    Args:
        arguments: its words.
        out, errors: where its output goes.
        environment: all of its environment, TMPDIR too.
        ahead: the process that forks jobs is forked with it.
    """
    differs = {name for name, value in environment.items() if os.environ.get(name) != value}
    if "--processes" in arguments or any(name.startswith(AT_BIRTH) for name in differs):
        command = [sys.executable, "-m", "app.cli.main", *arguments]
        return subprocess.Popen(command, stdout=out, stderr=errors, env=environment)
    return _zygote().fork(arguments, out, errors, environment, ahead)


@cache
def _zygote() -> Zygote:
    return Zygote()


def _serve(line: socket.socket) -> list[str]:
    """Forks as it is told; returns the words of `portllm` in each process that it forks."""
    while True:
        text, files, *_ = socket.recv_fds(line, LONGEST_ORDER, 2)
        if not text:
            os._exit(0)
        order = json.loads(text)
        if "ended" in order:
            answer = os.waitstatus_to_exitcode(os.waitpid(order["ended"], 0)[1])
        elif (answer := os.fork()) == 0:
            line.close()
            if order["ahead"]:
                _fork_ahead(Path(order["environment"]["TMPDIR"]))
            _become(order["environment"], *files)
            return list(order["arguments"])
        for file in files:
            os.close(file)
        line.send(str(answer).encode())


class _Ahead(subprocess.Popen[bytes]):
    """A process that was forked already, for whoever thinks that it starts one."""

    def __init__(self, pid: int, stderr: IO[bytes]) -> None:
        self.args, self.pid, self.returncode = [fork_server.SERVER], pid, None
        self.stdin, self.stdout, self.stderr = None, None, stderr
        self._child_created, self._waitpid_lock = True, threading.Lock()


def _fork_ahead(place: Path) -> None:
    """Forks what `app.jobs.spawn` would start for the first job, with nothing of the service's environment.

    Args:
        place: its working directory, by which tests know the processes of a service's jobs.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        ours.close()
        nothing = os.open(os.devnull, os.O_RDWR)
        for number, file in enumerate((nothing, nothing, writing)):
            os.dup2(file, number)
        os.closerange(3, theirs.fileno())
        os.closerange(theirs.fileno() + 1, 1024)
        os.setsid()
        os.chdir(place)
        os.environ.clear()
        if not theirs.recv(1, socket.MSG_PEEK):  # no job came
            os._exit(0)
        sys.argv[1:] = [str(theirs.detach())]
        fork_server.main()
        os._exit(0)
    theirs.close()
    os.close(writing)
    process, start = _Ahead(pid, os.fdopen(reading, "rb")), spawn.Forks._start

    def first(forks: spawn.Forks, _: Mapping[str, str]) -> None:
        spawn.Forks._start = start
        forks._line, forks._process = ours, process
        threading.Thread(target=spawn._log_complaints, args=(process,), daemon=True).start()

    spawn.Forks._start = first


def _become(environment: dict[str, str], out: int, errors: int) -> None:
    os.dup2(out, 1)
    os.dup2(errors, 2)
    os.close(out)
    os.close(errors)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    time.tzset()


def _wait_for_orders() -> None:
    for name in LATE:
        importlib.import_module(name)
    from app.cli.main import main

    gc.collect()
    gc.freeze()
    sys.argv[1:] = _serve(socket.socket(fileno=int(sys.argv[1])))
    sys.argv[0] = "portllm"
    main()


if __name__ == "__main__":
    _wait_for_orders()

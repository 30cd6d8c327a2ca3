"""Starts, stops and kills the service as a process of its own, and looks at it from outside."""

import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
from click.testing import Result
from typer.testing import CliRunner

from app.cli.main import cli
from app.jobs.fork_server import JOB
from tests.support import zygote
from tests.support.zygote import Forked

START_SECONDS = 90
# What takes a second here takes three where two cores run three tests and other work beside them: a bound that is there to
# tell "soon" from "never" is stretched by this, so that a test fails because of the code and not because of the machine.
PATIENCE = 3
POLL_SECONDS = "0.5"
# One for all clients: to load the world's authorities takes longer than all else that a short request does.
TLS = ssl.create_default_context()
Value = TypeVar("Value")


def until(ask: Callable[[], Value], seconds: float = 60, every: float = 0.05) -> Value:
    """Asks again and again until the answer is true, and returns it; fails after `seconds`, on a busy machine later.

    First after `every` seconds, then after a tenth of what it has waited: to be asked costs those who have work to do.
    """
    begun = time.monotonic()
    while not (answer := ask()):
        waited = time.monotonic() - begun
        assert waited < seconds * PATIENCE, f"not within {seconds * PATIENCE} s: {getattr(ask, '__doc__', None) or ask}"
        time.sleep(max(every, min(waited / 10, 1)))
    return answer


def environment(**more: str) -> dict[str, str]:
    """This process's environment without anything of PortLLM's, and more.

    Most services here never merge: two seconds of a core for torch at every start would be most of what a start takes. A look
    for jobs is most of what a service does that is not asked anything, and here many wait beside one another.
    """
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PORTLLM_")}
    return {**mine, "PORTLLM_WARM": "false", "PORTLLM_JOB_POLL_SECONDS": POLL_SECONDS, **more}


class Service:
    """`portllm serve` on a free port of the loopback interface.

    Args:
        root: a directory for its data, its output and its temporary files.
        allow: directories that releases may be registered from.
        variables: environment variables of the service.
        data: its data directory, below `root` by default.
        ahead: the process that forks its jobs is forked with it, see `tests.support.zygote`; otherwise started as for users.
    """

    def __init__(self, root: Path, *allow: Path, data: Path | None = None, ahead: bool = True, **variables: str) -> None:
        self.root, self.data, self._allow, self._ahead = root, data or root / "data", allow, ahead
        # TMPDIR is one of the few variables that jobs inherit: it tells our jobs from those of other services.
        self._mark = root / "tmp"
        self._mark.mkdir(parents=True, exist_ok=True)
        self._environment = environment(TMPDIR=str(self._mark), **variables)
        self._process: subprocess.Popen[bytes] | Forked | None = None
        self.url = ""

    def command(self) -> list[str]:
        """How a shell starts it."""
        return [sys.executable, "-m", "app.cli.main", *self.arguments()]

    def arguments(self) -> list[str]:
        """The words of `portllm`."""
        roots = [part for root in self._allow for part in ("--allow-root", str(root))]
        return ["serve", "--data", str(self.data), "--port", "0", *roots]

    def start(self) -> Self:
        """Starts it and waits for its address."""
        out = self.root / "stdout.txt"
        with out.open("wb") as stdout, (self.root / "stderr.txt").open("ab") as stderr:
            self._process = zygote.start(self.arguments(), stdout, stderr, self._environment, self._ahead)

        def address() -> str | None:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.errors()}"
            found = re.search(r"on (http://\S+)", out.read_text())
            return found and found[1]

        try:
            self.url = until(address, START_SECONDS) or ""
        except BaseException:
            self.kill()
            raise
        return self

    def change(self, **variables: str) -> None:
        """Environment variables of the next start."""
        self._environment |= variables

    @property
    def process(self) -> subprocess.Popen[bytes] | Forked:
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def variables_given(self) -> dict[str, str]:
        """Its environment."""
        return dict(self._environment)

    @property
    def token(self) -> str:
        return (self.data / "admin-token").read_text().strip()

    def output(self) -> str:
        """What the last start wrote to standard output."""
        return (self.root / "stdout.txt").read_text()

    def errors(self) -> str:
        """What all starts wrote to standard error."""
        return (self.root / "stderr.txt").read_text()

    def stop(self, seconds: float = 30) -> float:
        """SIGTERM; returns how long it took to end, in seconds."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return time.monotonic() - began

    def kill(self) -> None:
        """kill -9."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def client(self, **options: Any) -> httpx.Client:
        """An HTTP client with the admin token."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=60, **{"verify": TLS, **options})

    def variables(self, url: str | None = None) -> dict[str, str]:
        """What `portllm` needs to find it."""
        return {"PORTLLM_URL": url or self.url, "PORTLLM_TOKEN": self.token}

    def jobs(self) -> list[int]:
        """The processes of its jobs, also those that a killed service left behind."""
        return job_processes(self._mark)

    def memory(self, field: str) -> int:
        """A line of /proc/PID/status in bytes, for example VmHWM or VmRSS."""
        line = next(x for x in _read(self.pid, "status").decode().splitlines() if x.startswith(f"{field}:"))
        return int(line.split()[1]) * 1024

    def open_files(self) -> list[str]:
        """What its file descriptors point to, but for the database, whose pool of connections may grow."""
        return [name for name in open_files(self.pid) if "/portllm.db" not in name]


def run(
    *arguments: str | Path, seconds: float = 120, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs `portllm` as a process, like a script does."""
    command = [sys.executable, "-m", "app.cli.main", *map(str, arguments)]
    return subprocess.run(
        command, env=environment(**variables), capture_output=True, text=True, timeout=seconds, check=False, cwd=cwd
    )


def invoke(*arguments: str | Path, given: str = "", **variables: str) -> Result:
    """Runs `portllm` inside this process, which costs no start; exceptions that no verb explained come through.

    Args:
        given: what it reads from standard input.
    """
    hidden: dict[str, str | None] = {name: None for name in os.environ if name.startswith("PORTLLM_")}
    return CliRunner().invoke(cli, [*map(str, arguments)], env=hidden | variables, input=given, catch_exceptions=False)


def open_files(pid: int) -> list[str]:
    """What a process's file descriptors point to."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            found.append(str(link.readlink()))
    return sorted(found)


def job_processes(place: Path, name: str = JOB) -> list[int]:
    """The processes of jobs that were told this place for temporary files, or the one that they are forked from."""
    mark = f"TMPDIR={place}".encode()
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    found = [pid for pid in pids if _read(pid, "comm").strip() == name.encode()]
    return [pid for pid in found if mark in _read(pid, "environ").split(b"\0") or _is_in(pid, place)]


def _is_in(pid: int, place: Path) -> bool:
    """Whether it works there, as those do that `tests.support.zygote` forks."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cwd").samefile(place)
    return False


def _read(pid: int, name: str) -> bytes:
    with suppress(OSError):  # it ended, or it is not ours
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""

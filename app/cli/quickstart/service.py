"""The registry as a process of its own, for the quickstart: started on a free port, stopped when the block ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STOP_SECONDS = 20


class ServiceError(RuntimeError):
    """The service did not start; the argument is what it said."""


@dataclass(frozen=True)
class Service:
    """A running registry."""

    url: str
    token: str
    process: subprocess.Popen[str]


@contextmanager
def running_service(data: Path, allow_root: Path) -> Iterator[Service]:
    """Starts `portllm serve` and waits until it listens.

    Args:
        data: its data directory.
        allow_root: the directory that releases may be registered from.

    Raises:
        ServiceError: it did not start.
    """
    command = [sys.executable, "-m", "app.cli.main", "serve", "--data", str(data), "--port", "0", "--allow-root", str(allow_root)]
    log = (data.parent / "service.log").open("w+")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)  # noqa: S603  this program, and directories of its own
    try:
        assert process.stdout is not None  # noqa: S101  asked for above
        first = process.stdout.readline()
        if " on http" not in first:
            process.wait(STOP_SECONDS)
            log.seek(0)
            raise ServiceError(f"The service did not start: {(first + log.read()).strip()}")
        url = first.split(" on ", 1)[1].split()[0]
        yield Service(url, (data / "admin-token").read_text().strip(), process)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()

"""The processes of `portllm serve --processes N`: each answers requests at the same address, the kernel shares connections out.

uvicorn's supervisor starts them, replaces one that died or hangs, and ends them in peace.
"""

import multiprocessing
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn.supervisors import Multiprocess

from app.cli import logs
from app.cli.serve import server_config
from app.main import create_app
from app.settings import Settings
from app.wire.telemetry import PROCESSES

START_SECONDS = 60
# A process that reads large patches may be slow to answer its supervisor; one that hangs is silent for good.
SILENT_SECONDS = 30
METRICS = "metrics"


class Shared:
    """An address in the shape of a socket list's entry: whoever unpickles it gets a listener of its own on that address.

    One listener that all processes accept from would give whole bursts of connections to whichever wakes first.
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port

    def __reduce__(self) -> tuple[Callable[..., socket.socket], tuple[str, int]]:
        return _bound, self._address


class _Replicas(Multiprocess):
    """uvicorn's supervisor, which says when all processes answer."""

    def __init__(self, config: Any, sockets: list[Any], ready: Callable[[], None]) -> None:
        super().__init__(config, sockets)
        self._ready = ready
        self.is_serving = False

    def init_processes(self) -> None:
        """Starts all, and waits until each takes connections."""
        super().init_processes()
        self.is_serving = all(process.wait_until_ready(START_SECONDS, self.should_exit) for process in self.processes)
        if self.is_serving:
            self._ready()


def run_replicas(settings: Settings, host: str, port: int, processes: int, ready: Callable[[], None]) -> bool:
    """Answers requests in several processes until SIGTERM or SIGINT.

    Args:
        settings: of the service; a place for merged reads is one of the whole service, so they are shared out.
        host, port: where; the port is free and not 0.
        processes: how many.
        ready: called once, when all of them answer.

    Returns:
        Whether they failed to start.
    """
    shares = {"merged_reads": settings.merged_reads, "merged_reads_per_owner": settings.merged_reads_of_one}
    each = settings.model_copy(update={name: max(min(count, 1), count // processes) for name, count in shares.items()})
    # Whichever process is asked for metrics adds up what all of them count there.
    metrics = settings.data / METRICS
    shutil.rmtree(metrics, ignore_errors=True)
    metrics.mkdir(parents=True)
    os.environ[PROCESSES] = str(metrics)
    config = server_config(
        partial(replica, each), settings, factory=True, workers=processes, timeout_worker_healthcheck=SILENT_SECONDS
    )  # fmt: skip
    with _bound(host, port):  # does not listen: it keeps the port while a process is replaced
        supervisor = _Replicas(config, [Shared(host, port)], ready)
        supervisor.run()
    return not supervisor.is_serving


def replica(settings: Settings) -> Any:
    """The application, in one of the processes."""
    logs.configure(settings.log_format, settings.log_level, logs.secrets_of(settings))
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    return create_app(settings, replica=True)


def _end_with_parent() -> None:
    """Without the process that holds the lock and keeps the house, this one must not go on answering."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _bound(host: str, port: int) -> socket.socket:
    """A socket bound to an address that others of this user may be bound to as well; the server has it listen."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    return listener

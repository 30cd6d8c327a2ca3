"""The processes of `portllm serve --processes N`: all listen at the same address, and the kernel distributes connections."""

import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from app.cli import logs
from app.cli.draining import DrainingServer
from app.cli.serve import ended_by_signals, server_config
from app.cli.supervisor import report, spawn, supervise
from app.domain.errors import DomainError
from app.main import create_app
from app.settings import Settings

METRICS = "metrics"
# A setting of the Prometheus client, read when it is imported: it then keeps its values in files in that directory.
PROCESSES = "PROMETHEUS_MULTIPROC_DIR"
# Time to close the database and other resources, in addition to the time that requests in progress get.
CLOSE_SECONDS = 30.0
EXIT_NOT_STARTED = 3

log = logging.getLogger("portllm.processes")


def run_replicas(
    settings: Settings, host: str, port: int, processes: int, ready: Callable[[], object], stopping: Callable[[], object]
) -> bool:
    """Answers requests in several processes until SIGTERM or SIGINT.

    Args:
        settings: of the service; its places for reads and checks are divided among the processes.
        host, port: where; the port is free and not 0.
        processes: how many.
        ready: called once, when all of them accept connections.
        stopping: called once, when the stop begins.

    Returns:
        Whether it gave up because the processes did not start.
    """
    shares = {
        "merged_reads": settings.merged_reads, "merged_reads_per_owner": settings.merged_reads_of_one,
        "far_reads": settings.far_reads, "far_reads_per_owner": settings.far_reads_of_one,
        "checks": settings.checks, "checks_per_owner": settings.checks_of_one,
    }  # fmt: skip
    each = settings.model_copy(update={name: max(min(count, 1), count // processes) for name, count in shares.items()})
    # Every process keeps its counters in files there; the process that answers `/metrics` adds them up.
    metrics = settings.data / METRICS
    shutil.rmtree(metrics, ignore_errors=True)
    metrics.mkdir(parents=True)
    os.environ[PROCESSES] = str(metrics)
    with _bound(host, port):  # reserves the port while a process is replaced; this socket does not listen
        return supervise(
            partial(spawn, answer, each, host, port), processes, ready, stopping, partial(_forget_gauges, metrics),
            settings.drain_delay_seconds + settings.drain_seconds + CLOSE_SECONDS,
        )  # fmt: skip


def answer(pipe: Connection, settings: Settings, host: str, port: int) -> None:
    """Runs one of the processes until its parent sends SIGTERM or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the parent too, which then sends SIGTERM
    logs.configure(settings.log_format, settings.log_level, logs.secrets_of(settings))
    application = create_app(settings, settings.data / METRICS)
    runtime = application.state.registry
    server = DrainingServer(
        server_config(application, settings), runtime, settings.drain_delay_seconds, runtime.hand_back_jobs,
        at_once=lambda _: None,  # only the parent acts on a second signal, because some supervisors signal every process
    )  # fmt: skip
    with ended_by_signals(server):
        report(pipe, lambda: server.started, partial(os.kill, os.getpid(), signal.SIGTERM))
        try:
            runtime.start()
        except DomainError as error:
            log.warning("this process cannot start: %s [%s]", error, error.code)
            sys.exit(EXIT_NOT_STARTED)
        server.run(sockets=[_bound(host, port)])


def _forget_gauges(metrics: Path, pid: int) -> None:
    """Removes the gauges of a process that has ended."""
    mark_process_dead(pid, str(metrics))  # type: ignore[no-untyped-call]


def _bound(host: str, port: int) -> socket.socket:
    """A socket bound to an address that others of this user may be bound to as well; the server has it listen."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    return listener

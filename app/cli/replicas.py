"""The processes of `portllm serve --processes N`: each answers requests at the same address; the kernel spreads connections."""

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
# The Prometheus client's own switch, read when it is imported: with it, values are files of that directory.
PROCESSES = "PROMETHEUS_MULTIPROC_DIR"
# Beside the time that requests under way get, for closing the database and what else a process holds.
CLOSE_SECONDS = 30.0
EXIT_NOT_STARTED = 3

log = logging.getLogger("portllm.processes")


def run_replicas(
    settings: Settings, host: str, port: int, processes: int, ready: Callable[[], object], stopping: Callable[[], object]
) -> bool:
    """Answers requests in several processes until SIGTERM or SIGINT.

    Args:
        settings: of the service; places for reads and checks are of the whole service, so the processes share them out.
        host, port: where; the port is free and not 0.
        processes: how many.
        ready: called once, when all of them accept connections.
        stopping: called once, when the stop begins.

    Returns:
        Whether it gave up because they did not start.
    """
    shares = {
        "merged_reads": settings.merged_reads, "merged_reads_per_owner": settings.merged_reads_of_one,
        "far_reads": settings.far_reads, "far_reads_per_owner": settings.far_reads_of_one,
        "checks": settings.checks, "checks_per_owner": settings.checks_of_one,
    }  # fmt: skip
    each = settings.model_copy(update={name: max(min(count, 1), count // processes) for name, count in shares.items()})
    # Every process counts in files there; the one that is asked for metrics adds them up.
    metrics = settings.data / METRICS
    shutil.rmtree(metrics, ignore_errors=True)
    metrics.mkdir(parents=True)
    os.environ[PROCESSES] = str(metrics)
    with _bound(host, port):  # keeps the port while a process is replaced; it does not listen
        return supervise(
            partial(spawn, answer, each, host, port), processes, ready, stopping, partial(_forget_gauges, metrics),
            settings.drain_delay_seconds + settings.drain_seconds + CLOSE_SECONDS,
        )  # fmt: skip


def answer(pipe: Connection, settings: Settings, host: str, port: int) -> None:
    """Runs one of the processes, until its parent asks it to stop or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the parent too, which then sends SIGTERM
    logs.configure(settings.log_format, settings.log_level, logs.secrets_of(settings))
    application = create_app(settings, settings.data / METRICS)
    runtime = application.state.backend
    server = DrainingServer(
        server_config(application, settings), runtime, settings.drain_delay_seconds, runtime.hand_back_jobs,
        at_once=lambda _: None,  # a second signal is the parent's to act on: some supervisors signal every process
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
    """Drops what a process that ended counted as under way."""
    mark_process_dead(pid, str(metrics))  # type: ignore[no-untyped-call]


def _bound(host: str, port: int) -> socket.socket:
    """A socket bound to an address that others of this user may be bound to as well; the server has it listen."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    return listener

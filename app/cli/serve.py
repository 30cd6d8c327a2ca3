"""`portllm serve`: the service, in one process, or on PostgreSQL in several."""

import gc
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import logs
from app.cli.load_settings import DATA_VARIABLE, read_settings
from app.cli.output import EXIT_USAGE, fail
from app.core.gc_pause import collector_off

BACKLOG = 2048


def serve(
    data: Annotated[Path, typer.Option(envvar=DATA_VARIABLE, help="Directory for database, blobs and the admin token.")] = Path(
        "portllm-data"
    ),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 chooses a free one.", min=0, max=65535)] = 8000,
    allow_root: Annotated[
        list[Path] | None, typer.Option(help="Directory that releases may be registered from; repeat for several.")
    ] = None,
    processes: Annotated[
        int, typer.Option(help="How many processes answer requests, one a core say; more than 1 only on PostgreSQL.", min=1)
    ] = 1,
) -> None:
    """Start the registry. The first start writes the admin token to DATA/admin-token, and shows it on a terminal."""
    with collector_off():
        settings = read_settings(data)
    settings.allow_roots = [*settings.allow_roots, *(root.resolve() for root in allow_root or [])]
    for root in settings.allow_roots:
        if not root.is_dir():
            fail("serve.root", f"--allow-root {root} is not a directory.", exit_code=2)
    logs.configure(settings.log_format, settings.log_level, logs.secrets_of(settings))
    if processes > 1:
        _serve_in_processes(settings, host, port, processes)
        return
    _serve_here(settings, host, port)


def _serve_here(settings: Any, host: str, port: int) -> None:
    """This process does everything."""
    with collector_off():
        from app.cli.draining import DrainingServer  # noqa: PLC0415  only this verb needs the service
        from app.main import create_app  # noqa: PLC0415

        application = create_app(settings)
    gc.freeze()  # all of it stays
    runtime = application.state.registry
    listener = listen_on(host, port)
    server = DrainingServer(
        server_config(application, settings), runtime, settings.drain_delay_seconds, runtime.hand_back_jobs
    )  # fmt: skip
    with ended_by_signals(server):
        # Before the server takes connections: a refusal to start is a sentence here, not a trace in a log.
        _start(runtime)
        _announce(runtime, *listener.getsockname()[:2])
        server.run(sockets=[listener])  # on uvloop, where it is installed


def _serve_in_processes(settings: Any, host: str, port: int, processes: int) -> None:
    """Runs maintenance and jobs in this process, which locks the data directory; replicas answer requests."""
    from app.cli.replicas import run_replicas  # noqa: PLC0415
    from app.runtime import Runtime  # noqa: PLC0415
    from app.services.background import in_thread  # noqa: PLC0415

    if settings.is_embedded:
        text = "On SQLite one process answers. Leave --processes out, or set PORTLLM_DATABASE_URL to a PostgreSQL address."
        fail("serve.processes", text, exit_code=EXIT_USAGE)
    with listen_on(host, port) as probe:  # tells whether the port is free, and chooses one where any will do
        name, chosen = probe.getsockname()[:2]
    runtime = Runtime(settings, merges=False)
    _start(runtime)
    try:
        announce, hand_back = partial(_announce, runtime, name, chosen), partial(in_thread, runtime.hand_back_jobs)
        gave_up = run_replicas(settings, name, chosen, processes, announce, hand_back)
    finally:
        runtime.stop()
    if gave_up:
        fail("serve.replicas", "The processes that answer requests did not start; the log says why.")


def _start(runtime: Any) -> None:
    """Starts a runtime, or says why it cannot."""
    from app.domain.errors import DomainError  # noqa: PLC0415

    try:
        runtime.start()
    except DomainError as error:
        fail(error.code, str(error))
    except OSError as error:
        data = runtime.settings.data
        fail("serve.data", f"{data} cannot be the data directory ({error.strerror or error}). Choose another --data.")


def _announce(runtime: Any, name: str, port: int) -> None:
    """Prints the address of the service and the file of the first admin token; prints the token itself only on a terminal.

    Standard output that is not a terminal often goes to a log, which is kept and which more people can read.
    """
    url = f"http://{f'[{name}]' if ':' in name else name}:{port}"
    lines = [f"PortLLM Registry on {url} (documentation at {url}/docs)"]
    if runtime.admin_token:
        token_file = runtime.settings.data / "admin-token"
        if sys.stdout.isatty():
            lines += [f"Admin token, shown this once and kept in {token_file}:", f"  {runtime.admin_token}"]
        else:
            lines += [f"The admin token is in {token_file}"]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


@contextmanager
def ended_by_signals(server: Any) -> Iterator[None]:
    """Within the block SIGTERM and SIGINT end a server in order, also one that comes before the server runs.

    uvicorn raises a signal once more when it has ended. Without handlers of ours the process would then die of it, and a
    supervisor would take an end in order (exit code 0) for a crash.
    """

    def end(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_at_once(number: int, *_: object) -> None:
    """Ends the process immediately, with the exit code of a process killed by the signal.

    No clean-up is needed: other processes take over the jobs and locks of a killed process.
    """
    os._exit(128 + number)


def server_config(application: Any, settings: Any, **options: Any) -> Any:
    """How the HTTP server runs the application. X-Forwarded-For is believed of the proxies that settings name, of nobody else."""
    import uvicorn  # noqa: PLC0415

    from app.cli.protocol import BoundedProtocol  # noqa: PLC0415

    return uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        http=partial(  # type: ignore[arg-type]
            BoundedProtocol, head_seconds=settings.head_seconds, idle_seconds=settings.idle_seconds,
            body_rate=settings.body_rate, body_rate_seconds=settings.body_rate_seconds,
        ),
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        ws="none",
        timeout_graceful_shutdown=settings.drain_seconds,
        server_header=False,
        **options,
    )  # fmt: skip


def listen_on(host: str, port: int) -> socket.socket:
    """A listening socket, or the sentence why there is none."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        fail("serve.address", f"Cannot listen on {host}:{port} ({error.strerror or error}). Choose another --port.")

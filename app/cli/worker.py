"""`portllm worker`: runs jobs, on as many machines as there are."""

import gc
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import urlsplit

import typer

from app.cli import logs
from app.cli.load_settings import DATA_VARIABLE, read_settings
from app.cli.output import EXIT_USAGE, fail, fail_file
from app.core.gc_pause import collector_off

LABEL = "NAME=TEXT"


def worker(
    class_name: Annotated[str, typer.Option("--class", help="Whose jobs it runs: cpu, gpu24, gpu80, or another name.")] = "cpu",
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Read merged models too, at this address; port 0 chooses a free one.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Where clients reach that address; default: http:// and what it listens on.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(metavar=LABEL, help="Shown in the list of workers; repeat.")] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Jobs at once, for all workers of the class; default 1, and no other for gpu.")
    ] = None,
    data: Annotated[Path, typer.Option(envvar=DATA_VARIABLE, help="Directory for bytes, where they are not kept in S3.")] = Path(
        "portllm-data"
    ),
    allow_root: Annotated[
        list[Path] | None,
        typer.Option(help="Directory that releases may be read from; default: the service's. Repeat for all of them."),
    ] = None,
) -> None:
    """Run jobs of one class until SIGTERM, which hands running ones back. Needs PORTLLM_DATABASE_URL (PostgreSQL)."""
    with collector_off():
        from app.worker import Role  # noqa: PLC0415  only this verb needs it

        settings = read_settings(data)
    gc.freeze()  # all of it stays
    logs.configure(settings.log_format, settings.log_level, logs.secrets_of(settings))
    settings.allow_roots = [*settings.allow_roots, *(root.resolve() for root in allow_root or [])]
    if class_name.startswith("gpu") and (concurrency or 1) != 1:
        fail("worker.concurrency", "A gpu worker runs one job at a time. Leave --concurrency out.", exit_code=EXIT_USAGE)
    if url and not listen:
        fail("worker.url", "--url is where clients reach a worker that listens. Add --listen HOST:PORT.", exit_code=EXIT_USAGE)
    listener, address = _listen(listen) if listen else (None, None)
    role = Role(class_name, url or address, concurrency or 1, _labels(label or []))
    if listener:
        _serve(settings, role, listener)
    else:
        _run(settings, role)


def _run(settings: Any, role: Any) -> NoReturn:
    """Runs jobs until a signal comes."""
    from app.worker import WorkerRuntime  # noqa: PLC0415

    ended = _on_signal()
    runtime = _explained(lambda: WorkerRuntime(settings, role))
    _explained(runtime.start)
    _say(runtime.worker_info)
    ended.wait()
    _end(runtime)


def _serve(settings: Any, role: Any, listener: Any) -> NoReturn:
    """Runs jobs and answers requests until a signal comes. Then hands back its jobs while the last requests are answered."""
    import asyncio  # noqa: PLC0415

    from app.cli.draining import DrainingServer  # noqa: PLC0415
    from app.cli.serve import ended_by_signals, server_config  # noqa: PLC0415
    from app.worker import create_worker_app  # noqa: PLC0415

    application = _explained(lambda: create_worker_app(settings, role))
    runtime = application.state.registry
    server = DrainingServer(
        server_config(application, settings), runtime, settings.drain_delay_seconds, runtime.hand_back_jobs
    )  # fmt: skip
    with ended_by_signals(server):
        _explained(runtime.start)
        _say(runtime.worker_info)
        asyncio.run(server.serve(sockets=[listener]))
        _end(runtime)


def _on_signal() -> threading.Event:
    """Returns an event that the first stop signal sets; a second signal ends the process at once."""
    from app.cli.serve import end_at_once  # noqa: PLC0415

    ended = threading.Event()

    def end(number: int, *_: object) -> None:
        if ended.is_set():
            end_at_once(number)
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    return ended


def _explained(begin: Any) -> Any:
    """What `begin` returns; refusals, a database that is not there or not migrated, and a data directory that cannot be made are
    sentences, not traces.
    """
    from app.domain.errors import DomainError  # noqa: PLC0415

    try:
        return begin()
    except DomainError as error:
        fail(error.code, str(error))
    except OSError as error:
        fail_file(error, as_json=False)


def _say(worker_info: Any) -> None:
    where = f", reads merged models at {worker_info.url}" if worker_info.url else ""
    sys.stdout.write(f"Worker {worker_info.id} runs jobs of class {worker_info.class_name} on {worker_info.device}{where}\n")
    sys.stdout.flush()


def _end(runtime: Any) -> NoReturn:
    """Hands everything back, and does not wait for threads that wait for a database that is away."""
    runtime.stop()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _listen(address: str) -> tuple[Any, str]:
    from app.cli.serve import listen_on  # noqa: PLC0415

    parts = urlsplit(f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None:
        fail("worker.listen", f"--listen wants HOST:PORT, for example 0.0.0.0:8100, not {address!r}.", exit_code=EXIT_USAGE)
    listener = listen_on(host, port)
    name, chosen = listener.getsockname()[:2]
    return listener, f"http://{f'[{name}]' if ':' in name else name}:{chosen}"


def _labels(given: list[str]) -> dict[str, str]:
    found = {}
    for label in given:
        name, mark, text = label.partition("=")
        if not (name and mark):
            fail("worker.label", f"--label wants {LABEL}, not {label!r}.", exit_code=EXIT_USAGE)
        found[name[:60]] = text[:200]
    return found

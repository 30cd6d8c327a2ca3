"""`portllm serve`: the service, in one process."""

import asyncio
import socket
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import logs
from app.cli.output import fail

DRAIN_SECONDS = 10
BACKLOG = 2048


def serve(
    data: Annotated[Path, typer.Option(help="Directory for database, blobs and the admin token.")] = Path("portllm-data"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 chooses a free one.", min=0, max=65535)] = 8000,
    allow_root: Annotated[
        list[Path] | None, typer.Option(help="Directory that releases may be registered from; repeat for several.")
    ] = None,
) -> None:
    """Start the registry. The first start shows the admin token once and writes it to DATA/admin-token."""
    import uvicorn  # noqa: PLC0415  only this verb needs the service

    from app.domain.errors import DomainError  # noqa: PLC0415
    from app.main import create_app  # noqa: PLC0415
    from app.settings import Settings  # noqa: PLC0415

    settings = Settings(data=data)
    settings.allow_roots = [*settings.allow_roots, *(root.resolve() for root in allow_root or [])]
    for root in settings.allow_roots:
        if not root.is_dir():
            fail("serve.root", f"--allow-root {root} is not a directory.", exit_code=2)
    logs.configure(settings.log_format, settings.log_level, logs.secrets_of(settings))
    application = create_app(settings)
    runtime = application.state.backend
    listener = listen_on(host, port)
    try:
        # Before the server takes connections: a refusal to start is a sentence here, not a trace in a log.
        runtime.start()
    except DomainError as error:
        fail(error.code, str(error))
    except OSError as error:
        fail("serve.data", f"{data} cannot be the data directory ({error.strerror or error}). Choose another --data.")
    name, chosen = listener.getsockname()[:2]
    url = f"http://{f'[{name}]' if ':' in name else name}:{chosen}"
    lines = [f"PortLLM Registry on {url} (documentation at {url}/docs)"]
    if runtime.admin_token:
        lines += [f"Admin token, shown this once and kept in {data / 'admin-token'}:", f"  {runtime.admin_token}"]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    asyncio.run(uvicorn.Server(server_config(application)).serve(sockets=[listener]))


def server_config(application: Any) -> Any:
    """How the HTTP server runs the application."""
    import uvicorn  # noqa: PLC0415

    return uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        http="httptools",
        timeout_graceful_shutdown=DRAIN_SECONDS,
        server_header=False,
    )  # fmt: skip


def listen_on(host: str, port: int) -> socket.socket:
    """A listening socket, or the sentence why there is none."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        fail("serve.address", f"Cannot listen on {host}:{port} ({error.strerror or error}). Choose another --port.")

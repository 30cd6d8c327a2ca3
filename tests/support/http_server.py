"""A real HTTP server in a thread: for what the in-process client cannot show (live streams, clients that go away)."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from app.cli.serve import server_config
from tests.support.registry import Service


@contextmanager
def serving(service: Service) -> Iterator[str]:
    """Serves a registry that is started; gives its URL."""
    config = server_config(service.app, service.settings, log_level="error", lifespan="off")
    config.timeout_graceful_shutdown = 1
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            assert httpx.get(f"{url}/healthz", timeout=30).json() == {"status": "ok"}
            yield url
        finally:
            server.should_exit = True
            thread.join(10)

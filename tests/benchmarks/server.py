"""The service for benchmarks, with a route for static files beside it: `python -m tests.benchmarks.server DATA ROOT`.

Same application, same HTTP server, same settings as `portllm serve`; only the static route is added.
"""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.cli.client import Client
from app.cli.ingest import add_release, wait_release
from app.cli.upload import push_patch

FAMILY, OWNER, PATCH = "bench", "acme", "tone"


@dataclass(frozen=True)
class Running:
    """A service that runs: its client and its process."""

    client: Client
    process: subprocess.Popen[str]

    def register(self, name: str, directory: Path, parent: str | None = None) -> None:
        """Registers a release and waits until it is ready."""
        row = wait_release(self.client, add_release(self.client, FAMILY, name, directory, parent))
        if row["state"] != "ready":
            raise SystemExit(f"{directory} was rejected: {row['problem']}")

    def publish(self, directory: Path, release: str) -> None:
        """Publishes a patch that was trained on a release."""
        push_patch(self.client, OWNER, PATCH, directory, FAMILY, release)


@contextmanager
def service(data: Path, root: Path) -> Iterator[Running]:
    """Starts the service with `root` both as allow-list and below /static, and warms it."""
    command = [sys.executable, "-m", "tests.benchmarks.server", str(data), str(root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        url = process.stdout.readline().strip()
        client = Client(url, (data / "admin-token").read_text().strip())
        time.sleep(4)  # torch is imported in the background after the start; a service that runs has it
        yield Running(client, process)
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Serves until it is told to stop."""
    import uvicorn
    from starlette.staticfiles import StaticFiles

    from app.cli.serve import server_config
    from app.main import create_app
    from app.settings import Settings

    data, root = Path(sys.argv[1]), Path(sys.argv[2])
    settings = Settings(data=data, allow_roots=[root])
    app = create_app(settings)
    app.mount("/static", StaticFiles(directory=root))
    app.state.registry.start()
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    asyncio.run(uvicorn.Server(server_config(app, settings)).serve(sockets=[listener]))


if __name__ == "__main__":
    main()

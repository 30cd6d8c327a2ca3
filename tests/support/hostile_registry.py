"""A server that answers the command line with whatever a test wants."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CONTENT = b"not a model"
PLAIN = {"strategy": "add", "dtype": None, "tokenizer": "release"}
Answer = Callable[[str], tuple[int, str, bytes]]


@contextmanager
def running_server(answer: Answer) -> Iterator[dict[str, str]]:
    """A server of our own; `answer` maps a path to status, media type and body. Yields the variables of `portllm`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, media_type, body = answer(self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815  the base class's names

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {"PORTLLM_URL": f"http://127.0.0.1:{server.server_port}", "PORTLLM_TOKEN": "plt_x"}
    finally:
        server.shutdown()
        server.server_close()


def one_port_registry(path: str, content: bytes = CONTENT, size: int | None = None, digest: str | None = None) -> Answer:
    """A registry whose only port has one file of the given path, whatever that is."""
    file = {
        "path": path, "size": len(CONTENT) if size is None else size, "etag": "e", "computed": False,
        "sha256": digest or sha256(CONTENT).hexdigest(),
    }  # fmt: skip
    answers: dict[str, Any] = {
        "/api/v1/ports": {"items": [{"id": "prt_1", "recipe": PLAIN}], "next_cursor": None},
        "/api/v1/ports/prt_1/files": {"port": "prt_1", "fingerprint": "f", "total_bytes": file["size"], "files": [file]},
    }

    def answer(asked: str) -> tuple[int, str, bytes]:
        if asked in answers:
            return 200, "application/json", json.dumps(answers[asked]).encode()
        return 200, "application/octet-stream", content

    return answer

"""An HTTP proxy before an S3 server that fails like a real one on a bad day: errors, resets, cut bodies, silence.

Signed requests pass unchanged, Host header included: the client signs for the proxy's address, and the server checks what it got.
"""

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

Fault = Literal["403", "500", "501", "503", "reset", "reset-after", "cut", "stall"]
"""An error answer; a reset before the server heard of it, or after it did the work; half a body; no answer for a while."""

ALL: tuple[Fault, ...] = ("500", "503", "reset", "reset-after", "cut", "stall")
ERROR = '<?xml version="1.0"?><Error><Code>{}</Code><Message>Said by the proxy.</Message></Error>'
CODES = {"403": "AccessDenied", "501": "NotImplemented"}
CHUNK = 2**16


class FaultyS3:
    """Forwards to `url`; `choose` says for every request (method, path) which fault it meets, or None.

    Attributes:
        url: where clients go.
        met: how often each fault happened.
        stall_seconds: how long a stalled request waits before its connection is closed.
    """

    def __init__(self, url: str, choose: Callable[[str, str], Fault | None] = lambda _method, _path: None) -> None:
        self._target = urlsplit(url)
        self.choose = choose
        self.met: Counter[str] = Counter()
        self.stall_seconds = 3.0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name that http.server calls
                """Silence."""

            def _serve(self) -> None:
                proxy.serve(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815  the names that http.server calls

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def now_and_then(self, share: float, seed: int, faults: tuple[Fault, ...] = ALL) -> None:
        """From now on a share of all requests fails, each in some way."""
        chooser, lock = random.Random(seed), threading.Lock()

        def choose(_method: str, _path: str) -> Fault | None:
            with lock:
                return chooser.choice(faults) if chooser.random() < share else None

        self.choose = choose

    def well(self) -> None:
        """From now on nothing fails."""
        self.choose = lambda _method, _path: None

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        """Handles one request."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        fault = self.choose(request.command, request.path)
        if fault:
            self.met[fault] += 1
        if fault in ("403", "500", "501", "503"):
            error = ERROR.format(CODES.get(fault, "SlowDown")).encode()
            self._answer(request, int(fault), {"Content-Type": "application/xml"}, error)
            return
        if fault == "stall":
            time.sleep(self.stall_seconds)
        if fault in ("reset", "stall"):
            request.close_connection = True
            return
        connection = http.client.HTTPConnection(str(self._target.hostname), self._target.port, timeout=60)
        try:
            connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            self._relay(request, response, fault)
        finally:
            connection.close()

    def _relay(self, request: BaseHTTPRequestHandler, response: http.client.HTTPResponse, fault: Fault | None) -> None:
        if fault == "reset-after":
            response.read()
            request.close_connection = True
            return
        if request.command == "HEAD" or response.length is None:
            content = b"" if request.command == "HEAD" else response.read()
            headers = {k: v for k, v in response.headers.items() if k.lower() != "transfer-encoding"}
            if request.command != "HEAD":
                headers = {k: v for k, v in headers.items() if k.lower() != "content-length"}
            self._answer(request, response.status, headers, content, length=request.command != "HEAD")
            return
        left = response.length if fault != "cut" else response.length // 2
        request.send_response_only(response.status)
        for name, value in response.headers.items():
            request.send_header(name, value)
        request.end_headers()
        while left and (chunk := response.read(min(CHUNK, left))):
            request.wfile.write(chunk)
            left -= len(chunk)
        if fault == "cut":
            request.close_connection = True

    @staticmethod
    def _answer(
        request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes, length: bool = True
    ) -> None:
        request.send_response_only(status)
        for name, value in headers.items():
            request.send_header(name, value)
        if length:
            request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)

"""A TCP proxy before the service that breaks connections where a test wants it, and remembers what was asked."""

import re
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_REQUEST = re.compile(rb"([A-Z]+) (/\S*) HTTP/1\.1\r\n(.*?)\r\n\r\n", re.DOTALL)


@dataclass(frozen=True)
class Asked:
    """A request that passed through; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]


class Proxy:
    """Forwards to `url`.

    Attributes:
        asked: every request, in order.
        cut_down: end the connection once, after so many bytes more to the client.
        cut_up: the same for bytes to the service; it sees a reset.
        stall_down: forward nothing more after so many bytes to the client, and close nothing.
        stalled: set when that happened.
    """

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked: list[Asked] = []
        self.cut_down: int | None = None
        self.cut_up: int | None = None
        self.stall_down: int | None = None
        self.stalled = threading.Event()
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.close()
        for connection in self._open:
            connection.close()

    def find(self, method: str, end: str) -> list[Asked]:
        """The requests of a method whose path ends so."""
        return [a for a in self.asked if a.method == method and a.path.endswith(end)]

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            service = socket.create_connection(self._target)
            self._open += [client, service]
            threading.Thread(target=self._pump, args=(client, service, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(service, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        client, service = (source, target) if up else (target, source)
        with suppress(OSError):
            while data := source.recv(2**16):
                if up:
                    self._note(data)
                data, cut = self._pass(data, up)
                target.sendall(data)
                if cut:
                    _reset(service)
                    client.shutdown(socket.SHUT_WR)
                    return
            target.shutdown(socket.SHUT_WR)

    def _note(self, data: bytes) -> None:
        for method, path, rest in _REQUEST.findall(data):
            lines = (line.partition(": ") for line in rest.decode("latin-1").split("\r\n"))
            self.asked.append(Asked(method.decode(), path.decode(), {name.lower(): value for name, _, value in lines}))

    def _pass(self, data: bytes, up: bool) -> tuple[bytes, bool]:
        """What of the data may pass, and whether the connection ends there."""
        with self._lock:
            if not up and self.stall_down is not None:
                if len(data) > self.stall_down:
                    self.stalled.set()
                    data = data[: self.stall_down]
                self.stall_down -= len(data)
                return data, False
            budget = self.cut_up if up else self.cut_down
            if budget is None:
                return data, False
            cut = len(data) >= budget
            left = None if cut else budget - len(data)
            if up:
                self.cut_up = left
            else:
                self.cut_down = left
            return data[:budget], cut


def _reset(connection: socket.socket) -> None:
    """Ends a connection as a broken network does, without a farewell, and wakes the thread that reads from it."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()

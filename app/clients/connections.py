"""Connections of requests that somebody else named: to addresses that were judged, and not beyond a deadline."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import httpcore
import httpx

from app.clients.addresses import Address, Reach, resolve
from app.domain.errors import DomainError

ADDRESSES = 4  # of one name that are tried


class Deadline:
    """The end of a whole exchange; `within` shortens a limit so that it is kept."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def within(self, limit: float | None) -> float:
        """Seconds that are left, at most `limit`.

        Raises:
            httpcore.ReadTimeout: none are.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return left if limit is None else min(limit, left)


class Stream(httpcore.NetworkStream):
    """A connection on which nothing outlasts the deadline: a server that sends a byte a second else never ends."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.within(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.within(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return Stream(self._stream.start_tls(ssl_context, server_hostname, self._deadline.within(timeout)), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class Network(httpcore.NetworkBackend):
    """Resolves names itself and connects to an address that it has judged, so that no second answer counts."""

    def __init__(self, reach: Reach, deadline: Deadline) -> None:
        self._reach, self._deadline, self._sockets = reach, deadline, httpcore.SyncBackend()

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:  # fmt: skip
        failed: Exception = httpcore.ConnectError()
        for address in self._addresses(host, port, timeout)[:ADDRESSES]:
            try:
                left = self._deadline.within(timeout)
                stream = self._sockets.connect_tcp(str(address), port, left, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
                continue
            return Stream(stream, self._deadline)
        raise failed

    def _addresses(self, host: str, port: int, timeout: float | None) -> list[Address]:
        """The addresses of a host that may be connected to."""
        try:
            found = resolve(host, port, self._deadline.within(timeout))
        except OSError:
            raise DomainError("outgoing.unreachable", address=host[:200], reason="its name is not known") from None
        if found is None:
            raise httpcore.ConnectTimeout
        admitted = [address for address in found if self._reach.admits(host, address)]
        if not admitted:
            # Which address it is, is nobody's business who only named it.
            raise DomainError("outgoing.refused", address=host[:200], reason="it does not lie in the public Internet")
        return admitted


class Transport(httpx.BaseTransport):
    """httpx on connections of `Network`: one for one request, so that the deadline of a request is that of its connection."""

    def __init__(self, reach: Reach, deadline: Deadline) -> None:
        network = Network(reach, deadline)
        self._pool = httpcore.ConnectionPool(_tls(), max_connections=1, network_backend=network)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        headers, stream, extensions = request.headers.raw, request.stream, request.extensions
        answer = self._pool.handle_request(
            httpcore.Request(request.method, target, headers=headers, content=stream, extensions=extensions)
        )
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer), extensions=answer.extensions)

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    """The bytes of an answer."""

    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        return self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


@cache
def _tls() -> ssl.SSLContext:
    """Names are verified; authorities are those of certifi, or of SSL_CERT_FILE for an installation's own."""
    return httpx.create_ssl_context()

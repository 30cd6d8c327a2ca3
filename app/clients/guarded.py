"""The one way out to addresses that somebody named: issuers of identity tokens now, whatever else is named later.

Whoever may name an address could else make this service ask what only it can reach. So the address that is *connected to* is
judged, not the name, which may resolve otherwise a moment later; every redirect is judged again; nothing comes from the
environment's proxies; and an answer costs neither more time nor more memory than was allowed.
"""

from __future__ import annotations

import ssl
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import httpcore
import httpx

from app.clients.addresses import Address, Reach, resolve, shown
from app.domain.errors import DomainError

AGENT = "portllm-registry"
REDIRECTS = (301, 302, 303, 307, 308)
KEEP_METHOD = (307, 308)
ADDRESSES = 4  # of one name that are tried
# Of the headers of a request, those that are of use to another origin and no secret.
HARMLESS = ("accept", "content-type", "user-agent")


class Answer(NamedTuple):
    """What came back, whatever its status; `body` is unpacked."""

    status: int
    headers: httpx.Headers
    body: bytes


def request(
    method: str, url: str, reach: Reach, headers: Mapping[str, str] | None = None, content: bytes | None = None
) -> Answer:
    """Asks an address that somebody named.

    Args:
        reach: how far it may go.

    Raises:
        DomainError: outgoing.refused; outgoing.unreachable, outgoing.timeout, outgoing.too_large. None of them shows
            headers, bodies, queries or passwords.
    """
    deadline = _Deadline(reach.total_seconds)
    target, sent = _parsed(url), httpx.Headers(dict(headers or {}))
    for _ in range(reach.redirects + 1):
        reach.check_url(target)
        answer = _ask(method, target, reach, deadline, sent, content)
        if answer.status not in REDIRECTS or "Location" not in answer.headers:
            return answer
        following = _following(target, answer.headers["Location"])
        if _origin(following) != _origin(target):
            sent = httpx.Headers({name: value for name, value in sent.items() if name in HARMLESS})
        if answer.status not in KEEP_METHOD and method != "HEAD":
            method, content = "GET", None
        target = following
    reason = "it answers with one redirect after another" if reach.redirects else "it answers with a redirect"
    raise DomainError("outgoing.refused", address=shown(target), reason=reason)


def _parsed(url: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except (httpx.InvalidURL, ValueError, TypeError):
        raise DomainError("outgoing.refused", address="what was named", reason="it is no address") from None


def _following(url: httpx.URL, location: str) -> httpx.URL:
    """Where a redirect leads to."""
    try:
        target = url.join(location)
    except (httpx.InvalidURL, ValueError):
        raise DomainError("outgoing.refused", address=shown(url), reason="it redirects to what is no address") from None
    if url.scheme == "https" and target.scheme != "https":
        raise DomainError("outgoing.refused", address=shown(url), reason="it redirects to what is not https")
    return target


def _origin(url: httpx.URL) -> tuple[str, bytes, int | None]:
    return url.scheme, url.raw_host, url.port


def _ask(method: str, url: httpx.URL, reach: Reach, deadline: _Deadline, headers: httpx.Headers, content: bytes | None) -> Answer:
    """One request and its answer, without redirects."""
    # Packed bodies are not asked for, and unpacked where they come nevertheless.
    sent = httpx.Headers({"User-Agent": AGENT, "Accept": "*/*"})
    sent.update(headers)
    sent.update({"Accept-Encoding": "identity", "Connection": "close"})
    timeout = httpx.Timeout(reach.read_seconds, connect=reach.connect_seconds)
    client = httpx.Client(transport=_Transport(reach, deadline), trust_env=False, follow_redirects=False, timeout=timeout)
    try:
        with client, client.stream(method, url, headers=sent, content=content) as response:
            return Answer(response.status_code, response.headers, _body(url, response, reach.max_bytes))
    except (httpcore.TimeoutException, httpx.TimeoutException):
        raise DomainError("outgoing.timeout", address=shown(url), seconds=reach.total_seconds) from None
    except (httpcore.NetworkError, httpcore.ProtocolError, httpx.HTTPError, OSError) as error:
        raise DomainError("outgoing.unreachable", address=shown(url), reason=_reason(error)) from error


def _reason(error: Exception) -> str:
    """Why an address could not be asked, in words that hold nothing of what was sent or came back."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "its certificate is not valid"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, (httpcore.ProtocolError, httpx.ProtocolError)):
        return "it does not speak HTTP"
    if isinstance(error, httpcore.ConnectError):
        return "it takes no connection"
    return "the connection broke"


def _body(url: httpx.URL, response: httpx.Response, limit: int) -> bytes:
    """The body, unpacked; never holds more than `limit` bytes and what one read brought.

    httpx would unpack what one read brought at once, which may be a thousand times as much.
    """
    packing = response.headers.get("Content-Encoding", "").strip().lower()
    if packing not in ("", "identity", "gzip"):
        raise DomainError("outgoing.unreachable", address=shown(url), reason="its answer is packed in an unknown way")
    unpacking = zlib.decompressobj(16 + zlib.MAX_WBITS) if packing == "gzip" else None
    body = bytearray()
    try:
        for piece in response.iter_raw():
            body += unpacking.decompress(piece, limit + 1 - len(body)) if unpacking else piece
            if len(body) > limit:
                raise DomainError("outgoing.too_large", address=shown(url), limit=limit)
    except zlib.error:
        raise DomainError("outgoing.unreachable", address=shown(url), reason="its answer cannot be unpacked") from None
    if unpacking and body and not unpacking.eof:
        raise DomainError("outgoing.unreachable", address=shown(url), reason="its answer cannot be unpacked")
    return bytes(body)


class _Deadline:
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


class _Stream(httpcore.NetworkStream):
    """A connection on which nothing outlasts the deadline: a server that sends a byte a second else never ends."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
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
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, self._deadline.within(timeout)), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Network(httpcore.NetworkBackend):
    """Resolves names itself and connects to an address that it has judged, so that no second answer counts."""

    def __init__(self, reach: Reach, deadline: _Deadline) -> None:
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
            return _Stream(stream, self._deadline)
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


class _Transport(httpx.BaseTransport):
    """httpx on connections of `_Network`: one for one request, so that the deadline of a request is that of its connection."""

    def __init__(self, reach: Reach, deadline: _Deadline) -> None:
        network = _Network(reach, deadline)
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

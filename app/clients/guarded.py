"""The one way out to addresses that somebody named: issuers of identity tokens, hubs that are pulled from.

Whoever may name an address could else make this service ask what only it can reach. So the address that is *connected to* is
judged, not the name, which may resolve otherwise a moment later; every redirect is judged again; nothing comes from the
environment's proxies; and an answer costs neither more time nor more memory than was allowed.
"""

from __future__ import annotations

import ssl
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import httpcore
import httpx

from app.clients.addresses import Reach, shown
from app.clients.connections import Deadline, Transport
from app.domain.errors import DomainError

AGENT = "portllm-registry"
REDIRECTS = (301, 302, 303, 307, 308)
KEEP_METHOD = (307, 308)
# Of the headers of a request, those that are of use to another origin and no secret.
HARMLESS = ("accept", "content-type", "range", "user-agent")


class Answer(NamedTuple):
    """What came back, whatever its status; `body` is unpacked."""

    status: int
    headers: httpx.Headers
    body: bytes


class Streamed(NamedTuple):
    """An answer whose body is not read yet.

    Attributes:
        first: the headers of the answer of the address that was asked; those of the last are `headers`.
        pieces: the body as it comes, packed or not; raises as `request` does.
    """

    status: int
    headers: httpx.Headers
    first: httpx.Headers
    pieces: Iterator[bytes]


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
    with ExitStack() as opened:
        found = _follow(opened, method, url, reach, headers, content)
        with _errors(found.url, reach):
            body = _body(found.url, found.response, reach.max_bytes)
        return Answer(found.response.status_code, found.response.headers, body)


@contextmanager
def stream(url: str, reach: Reach, headers: Mapping[str, str] | None = None) -> Iterator[Streamed]:
    """GETs something large: whoever takes the pieces of the body bounds them; all of them come within `total_seconds`.

    Raises:
        DomainError: as `request`; outgoing.too_large after `max_bytes`.
    """
    with ExitStack() as opened:
        found = _follow(opened, "GET", url, reach, headers, None)
        yield Streamed(found.response.status_code, found.response.headers, found.first, _pieces(found, reach))


class _Found(NamedTuple):
    """The answer at the end of all redirects; `first` are the headers of the first answer."""

    url: httpx.URL
    response: httpx.Response
    first: httpx.Headers


def _follow(
    opened: ExitStack, method: str, url: str, reach: Reach, headers: Mapping[str, str] | None, content: bytes | None
) -> _Found:
    """Asks, and follows redirects as far as they may go; `opened` closes what the last answer needs."""
    deadline = Deadline(reach.total_seconds)
    target, sent = _parsed(url), httpx.Headers(dict(headers or {}))
    first: httpx.Headers | None = None
    for _ in range(reach.redirects + 1):
        reach.check_url(target)
        with ExitStack() as hop:
            response = _ask(hop, method, target, reach, deadline, sent, content)
            first = response.headers if first is None else first
            if response.status_code not in REDIRECTS or "Location" not in response.headers:
                opened.push(hop.pop_all())
                return _Found(target, response, first)
        following = _following(target, response.headers["Location"])
        if _origin(following) != _origin(target):
            sent = httpx.Headers({name: value for name, value in sent.items() if name in HARMLESS})
        if response.status_code not in KEEP_METHOD and method != "HEAD":
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


def _ask(
    hop: ExitStack, method: str, url: httpx.URL, reach: Reach, deadline: Deadline, headers: httpx.Headers, content: bytes | None
) -> httpx.Response:
    """One request and the head of its answer, without redirects; `hop` closes the connection."""
    # Packed bodies are not asked for, and unpacked where they come nevertheless.
    sent = httpx.Headers({"User-Agent": AGENT, "Accept": "*/*"})
    sent.update(headers)
    sent.update({"Accept-Encoding": "identity", "Connection": "close"})
    timeout = httpx.Timeout(reach.read_seconds, connect=reach.connect_seconds)
    transport = Transport(reach, deadline)
    client = hop.enter_context(httpx.Client(transport=transport, trust_env=False, follow_redirects=False, timeout=timeout))
    with _errors(url, reach):
        return hop.enter_context(client.stream(method, url, headers=sent, content=content))


@contextmanager
def _errors(url: httpx.URL, reach: Reach) -> Iterator[None]:
    """What goes wrong on the wire, as refusals."""
    try:
        yield
    except (httpcore.TimeoutException, httpx.TimeoutException):
        raise DomainError("outgoing.timeout", address=shown(url), seconds=reach.total_seconds) from None
    except (httpcore.NetworkError, httpcore.ProtocolError, httpx.HTTPError, OSError) as error:
        raise DomainError("outgoing.unreachable", address=shown(url), reason=_reason(error)) from error


def _pieces(found: _Found, reach: Reach) -> Iterator[bytes]:
    """Errors of the wire are told apart from those of whoever takes the pieces: only the reading of each is looked at."""
    raw, left = found.response.iter_raw(), reach.max_bytes
    while True:
        with _errors(found.url, reach):
            piece = next(raw, None)
        if piece is None:
            return
        left -= len(piece)
        if left < 0:
            raise DomainError("outgoing.too_large", address=shown(found.url), limit=reach.max_bytes)
        yield piece


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

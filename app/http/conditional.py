"""Conditional and ranged requests (RFC 9110), for files."""

import re
from dataclasses import dataclass

from app.domain.errors import DomainError

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True)
class Span:
    """Bytes [start, stop) of `size`; `partial` when a range was asked for."""

    start: int
    stop: int
    size: int
    partial: bool

    @property
    def length(self) -> int:
        return self.stop - self.start

    def headers(self) -> dict[str, str]:
        headers = {"Content-Length": str(self.length), "Accept-Ranges": "bytes"}
        if self.partial:
            headers["Content-Range"] = f"bytes {self.start}-{self.stop - 1}/{self.size}"
        return headers


def is_match(header: str | None, etag: str) -> bool:
    """Whether an If-None-Match or If-Match header names an ETag (given without quotes)."""
    if header is None:
        return False
    return header.strip() == "*" or etag in (part.strip().removeprefix("W/").strip('"') for part in header.split(","))


def span(range_header: str | None, if_range: str | None, etag: str, size: int, path: str) -> Span:
    """The bytes that a request asks for.

    One range is served; several, and other units, are answered with the whole file, as the standard allows. A range whose
    If-Range names another ETag is answered with the whole file too.

    Raises:
        DomainError: request.range, when the range lies outside the file.
    """
    whole = Span(0, size, size, partial=False)
    match = _RANGE.fullmatch(range_header.strip()) if range_header else None
    if match is None or not any(match.groups()) or (if_range is not None and if_range.strip().strip('"') != etag):
        return whole
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        raise DomainError("request.range", path=path, size=size, range=str(range_header)[:100])
    return Span(start, stop, size, partial=True)

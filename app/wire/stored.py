"""One file that lies somewhere as an answer: Range, If-Range, If-None-Match and HEAD, in bounded memory."""

import mimetypes
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack

from fastapi import Request, Response

from app.core.source import Source, read_range
from app.wire.conditional import Span, is_match, span
from app.wire.reading import FOREIGN, Conditions, MergedResponse

PIECE_BYTES = 2**20


def stored(
    request: Request, conditions: Conditions, path: str, etag: str, size: int, headers: Mapping[str, str],
    opened: Callable[[], AbstractContextManager[Source]],
) -> Response:  # fmt: skip
    """The answer to a GET or HEAD of one file.

    Args:
        request: for its method.
        conditions: its headers.
        path, etag, size: of the file, in `opened`.
        headers: more of the answer's.
        opened: opens where it lies; not called where no byte of it is wanted.
    """
    headers = {**headers, "ETag": f'"{etag}"'} | FOREIGN
    if is_match(conditions.if_none_match, etag):
        return Response(status_code=304, headers=headers)
    wanted = span(conditions.range, conditions.if_range, etag, size, path)
    media_type = mimetypes.guess_type(path)[0] or "application/octet-stream"
    status, headers = 206 if wanted.partial else 200, headers | wanted.headers()
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    return MergedResponse(_open(opened, path, wanted), status, headers, media_type)


def _open(
    opened: Callable[[], AbstractContextManager[Source]], path: str, wanted: Span
) -> Generator[memoryview, None, None]:  # fmt: skip
    """Reads the first piece at once, so that what goes wrong at the start is an error, not a broken download."""
    with ExitStack() as stack:
        source = stack.enter_context(opened())
        first = read_range(source, path, wanted.start, min(PIECE_BYTES, wanted.length))
        return _body(stack.pop_all(), source, path, wanted, first)


def _body(stack: ExitStack, source: Source, path: str, wanted: Span, first: bytearray) -> Generator[memoryview, None, None]:
    with stack:
        yield memoryview(first)
        for start in range(wanted.start + len(first), wanted.stop, PIECE_BYTES):
            yield memoryview(read_range(source, path, start, min(PIECE_BYTES, wanted.stop - start)))

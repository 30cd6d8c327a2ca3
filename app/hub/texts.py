"""A text as a source of bytes."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.core.source import Source


class _Text:
    """`Source` of one file, under whichever path."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def size(self, path: str) -> int:  # noqa: ARG002
        return len(self._content)

    def read_into(self, path: str, offset: int, buffer: memoryview) -> None:  # noqa: ARG002
        buffer[:] = self._content[offset : offset + len(buffer)]

    def close(self) -> None:
        """Nothing is open."""


@contextmanager
def text_source(content: bytes) -> Iterator[Source]:
    """A source of what was generated."""
    yield _Text(content)

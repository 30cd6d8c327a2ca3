"""JSON of files that somebody sent: what one reader takes, every other one can read and write again."""

import json
import threading
from typing import Any

import pytest

from app.core.json_text import MAX_NESTING, parse_object


def nested(depth: int) -> str:
    """An object of a depth: itself, and lists in it."""
    return '{"a":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


@pytest.mark.parametrize("depth", [1, 2, MAX_NESTING])
def test_an_object_within_the_bound_is_parsed(depth: int) -> None:
    text = "{}" if depth == 1 else nested(depth)
    assert parse_object(text.encode()) == json.loads(text)


@pytest.mark.parametrize("depth", [MAX_NESTING + 1, 400, 900, 990, 1_100, 100_000])
def test_an_object_deeper_than_the_bound_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match="nested more than"):
        parse_object(nested(depth).encode())


@pytest.mark.parametrize("text", [
    b"", b"[]", b"1", b"{", b"\xff", b'{"a": NaN}', b'{"a": 1e400}', b'{"a": "\\ud800"}', b'{"a": %s}' % (b"9" * 5000),
    b"\xef\xbb\xbf{}",
])  # fmt: skip
def test_what_is_no_object_that_can_be_written_again_is_refused_in_few_words(text: bytes) -> None:
    with pytest.raises(ValueError, match=r".+") as refused:
        parse_object(text)
    assert len(str(refused.value)) <= 200


def test_what_was_parsed_can_be_written_with_a_deep_stack() -> None:
    """`indent` makes Python's writer recurse in Python: the deepest that is taken must leave it room."""
    value = parse_object(nested(MAX_NESTING).encode())
    written = list[str]()

    def descend(levels: int, value: Any) -> None:
        if levels:
            descend(levels - 1, value)
        else:
            written.append(json.dumps(value, indent=2))

    thread = threading.Thread(target=descend, args=(600, value))
    thread.start()
    thread.join()
    assert json.loads(written[0]) == value

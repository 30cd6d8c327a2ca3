"""Ranges of merged files: any part of any file is the same part of the whole."""

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fixtures import World, on_sqlite
from tests.support.registry import refused

pytestmark = on_sqlite  # bytes

SHARD = "model-00002-of-00003.safetensors"
CARRIED = "tokenizer.json"


@pytest.fixture(scope="session", params=[SHARD, CARRIED])
def file(world: World, request: pytest.FixtureRequest) -> tuple[str, bytes]:
    """A computed and a carried file: where it is, and all of it."""
    url = f"/ports/{world.port['id']}/files/{request.param}"
    return url, world.acme.get(url).content


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("0-0", 0, 1), ("0-99", 0, 100), ("7-4321", 7, 4322), ("100-", 100, None), ("0-", 0, None), ("-1", -1, None),
        ("-4096", -4096, None), ("5-999999999", 5, None), ("-999999999", 0, None),
    ],
)  # fmt: skip
def test_one_range(world: World, file: tuple[str, bytes], header: str, start: int, stop: int | None) -> None:
    """First to last, from, last n, clipped at the end: 206 with what was served."""
    url, whole = file
    part = whole[start:stop]
    first = whole.index(part) if len(part) == len(whole) else (start if start >= 0 else len(whole) + start)
    for method in ("GET", "HEAD"):
        read = world.acme(method, url, headers={"Range": f"bytes={header}"})
        assert read.status_code == 206
        assert read.headers["Content-Range"] == f"bytes {first}-{first + len(part) - 1}/{len(whole)}"
        assert read.headers["Content-Length"] == str(len(part))
        assert read.content == (part if method == "GET" else b"")


def test_range_beyond_the_file_is_416(world: World, file: tuple[str, bytes]) -> None:
    """The last byte can be read; the one after it cannot, and the answer says how long the file is."""
    url, whole = file
    last = world.acme.get(url, {"Range": f"bytes={len(whole) - 1}-"})
    assert (last.status_code, last.content) == (206, whole[-1:])
    for header in (f"{len(whole)}-", f"{len(whole)}-{len(whole)}", "999999999999-", "-0"):
        outside = world.acme.get(url, {"Range": f"bytes={header}"})
        problem = refused(outside, 416, "request.range")
        assert outside.headers["Content-Range"] == f"bytes */{len(whole)}"
        assert problem["data"]["size"] == len(whole)


@pytest.mark.parametrize(
    "header",
    ["bytes=0-1,5-6", "bytes=-1,0-0", "items=0-1", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=1", "", "bytes=0-1-2"],
)
def test_several_or_invalid_ranges_return_the_whole_file(world: World, file: tuple[str, bytes], header: str) -> None:
    """Several ranges, other units and what is no range are answered with the whole file."""
    url, whole = file
    read = world.acme.get(url, {"Range": header})
    assert (read.status_code, read.content) == (200, whole)
    assert "Content-Range" not in read.headers


def test_if_range_of_another_file_returns_the_whole(world: World, file: tuple[str, bytes]) -> None:
    """A range of the file that the client began with, or the whole of another one."""
    url, whole = file
    etag = world.acme.head(url).headers["ETag"]
    same = world.acme.get(url, {"Range": "bytes=10-19", "If-Range": etag})
    assert (same.status_code, same.content) == (206, whole[10:20])
    for other in ('"other"', f"W/{etag}", "Tue, 24 Nov 2026 12:00:00 GMT"):
        changed = world.acme.get(url, {"Range": "bytes=10-19", "If-Range": other})
        assert (changed.status_code, changed.content) == (200, whole)
    # Beyond the end of another file is not beyond the end of this one.
    beyond = world.acme.get(url, {"Range": "bytes=99999999-", "If-Range": '"other"'})
    assert (beyond.status_code, beyond.content) == (200, whole)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_random_ranges_add_up_to_the_file(world: World, file: tuple[str, bytes], data: st.DataObject) -> None:
    """A file cut anywhere and read in any order comes together again, byte for byte."""
    url, whole = file
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=6, unique=True))
    edges = sorted({0, len(whole), *cuts})
    pieces = data.draw(st.permutations(list(pairwise(edges))))
    assembled = bytearray(len(whole))
    for start, stop in pieces:
        read = world.acme.get(url, {"Range": f"bytes={start}-{stop - 1}"})
        assert read.status_code == 206
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", read.headers["Content-Range"])
        assert found
        assert tuple(map(int, found.groups())) == (start, stop - 1, len(whole))
        assembled[start:stop] = read.content
    assert bytes(assembled) == whole

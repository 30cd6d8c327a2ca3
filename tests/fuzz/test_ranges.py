"""Range headers of any kind: an answer is the whole file, a part of it or a refusal, and a part is what stands at its place."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.budget import tried
from tests.support.fuzz_world import WEIGHTS, World

POSITIONS = st.one_of(
    st.integers(-5, 700).map(str), st.integers(0, 10**30).map(str),
    st.sampled_from(["", " 1", "+1", "0x1", "1_0", "\xb2", "-1", "00"])
)  # fmt: skip
SPANS = st.tuples(POSITIONS, st.sampled_from(["-", "--", "", " - ", "\x96"]), POSITIONS).map("".join)
UNITS = st.sampled_from(["bytes=", "bytes =", "Bytes=", "bits=", "bytes", "", "bytes=,", "none="])
LISTS = st.lists(SPANS, max_size=300).map(",".join)
# Header values are latin-1 on the wire, without what ends a line.
ANYTHING = st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=900)
HEADERS = st.one_of(
    st.tuples(UNITS, LISTS).map("".join), st.tuples(UNITS, SPANS).map("".join), ANYTHING,
    st.tuples(st.integers(0, 700), st.integers(0, 700)).map(lambda pair: f"bytes={pair[0]}-{pair[1]}"),
)  # fmt: skip
ONE = re.compile(r"bytes=([0-9]{1,17})-([0-9]{1,17})")


@pytest.mark.parametrize("what", ["merged", "carried", "published"])
def test_any_range(world: World, what: str) -> None:
    url = {
        "merged": f"/ports/{world.known['port'][0]}/files/model.safetensors",
        "carried": f"/ports/{world.known['port'][0]}/files/config.json",
        "published": f"/patches/acme/tone/versions/1/files/{WEIGHTS}",
    }[what]  # fmt: skip
    first = world.acme.get(url)
    whole, tag = first.content, first.headers["ETag"]

    @tried(40)
    @given(HEADERS, st.sampled_from([None, tag, '"other"', "W/" + tag, "\xff"]), st.sampled_from(["GET", "HEAD"]))
    def ask(header: str, if_range: str | None, method: str) -> None:
        headers = {"Range": header.encode("latin-1")} | ({"If-Range": if_range.encode("latin-1")} if if_range else {})
        answer = world.acme(method, url, headers=headers)
        code = world.check(answer)
        start, stop = 0, len(whole)
        if answer.status_code == 206:
            found = re.fullmatch(rf"bytes ([0-9]+)-([0-9]+)/{len(whole)}", answer.headers["Content-Range"])
            assert found
            start, stop = int(found[1]), int(found[2]) + 1
            assert 0 <= start < stop <= len(whole)
        elif answer.status_code != 200:
            assert answer.status_code in (416, 422)  # 422: longer than a header may be
            assert answer.status_code == 422 or answer.headers["Content-Range"] == f"bytes */{len(whole)}"
            assert method == "HEAD" or code in ("request.range", "request.invalid")
            return
        assert answer.headers["Content-Length"] == str(stop - start)
        assert method == "HEAD" or answer.content == whole[start:stop]
        if (one := ONE.fullmatch(header)) and if_range in (None, tag) and int(one[1]) <= min(int(one[2]), len(whole) - 1):
            assert (answer.status_code, start, stop) == (206, int(one[1]), min(int(one[2]) + 1, len(whole)))

    ask()
    world.quiet()

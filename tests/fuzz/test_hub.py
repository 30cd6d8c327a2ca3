"""Every route of the Hub protocol, which no document describes: names, revisions, paths and queries that fit and that do not."""

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.hub.access_rules import RULES
from tests.fuzz.budget import tried
from tests.fuzz.nasty import NAMES
from tests.support.fuzz_world import World

REVISIONS = ["main", "1", "v1", "1@v1", "v1@1", "prod", "2", "v9", "0" * 40, "f" * 40, "refs/pr/1", "1@", "@v1", "v1@1@1", "-1"]
GOOD: dict[str, list[str]] = {
    "owner": ["acme", "base", "rival"], "name": ["tone", "tone.merged", "llama", "nope"], "revision": REVISIONS,
    "path": ["README.md", "config.json", "model.safetensors", "adapter_config.json", "adapter_model.safetensors", "", "docs/x"],
    "rest": ["acme/tone", "acme/tone/tree/main", "v2/shards", "v1/chunks/default/x"], "other": ["datasets", "spaces"],
    "tag": ["prod", "1", "main"], "branch": ["main", "side", "v9"], "ident": ["obj_nope", "x"], "session": ["session-1", "x"],
    "prefix": ["default"], "block": ["ab" * 32, "x"],
}  # fmt: skip
WORDS = st.one_of(
    st.sampled_from(NAMES), st.text(max_size=40), st.sampled_from(["a" * 300, "%2e%2e", "..%2f", "%00", "%ff", "%"])
)
NUMBERS = st.sampled_from(["0", "1", "2", "-1", "1e3", "true", "False", "x", "9" * 30, "", "None"])
ASKED = ["limit", "cursor", "recursive", "expand", "blobs", "author", "search", "filter", "include_prs", "full", "p", "q"]
QUERIES = st.dictionaries(
    st.sampled_from(ASKED),
    st.one_of(NUMBERS, WORDS, st.sampled_from(["sha", "base_model:base/llama", "base_model:", "bGxhbWE", "cF9hZnRlcl8"])),
    max_size=4,
)  # fmt: skip
RANGES = st.sampled_from(["bytes=0-3", "bytes=-1", "bytes=5-2", "bytes=99999999-", "bytes=0-1,3-4", "x=1", f"bytes={9**30}-", ""])
IF_RANGE = st.sampled_from(['"x"', "*", ""])
HEADERS = st.fixed_dictionaries({}, optional={"Range": RANGES, "If-Range": IF_RANGE, "If-None-Match": RANGES})
FORMS = st.one_of(
    st.lists(st.sampled_from(["README.md", "docs", "..", "", "a\0b"]), max_size=4).map(lambda paths: {"data": {"paths": paths}}),
    st.binary(max_size=60).map(lambda content: {"content": content}),
    st.just({"json": {"paths": ["README.md"]}}), st.just({"content": b"paths=a&" * 2000}),
)  # fmt: skip


@st.composite
def addresses(draw: st.DrawFn, path: str) -> str:
    """A path with something in every hole: what is there, or anything else, encoded or as it is."""
    while "{" in path:
        start, end = path.index("{"), path.index("}")
        hole = path[start + 1 : end].partition(":")[0]
        value = draw(st.one_of(st.sampled_from(GOOD[hole]), WORDS))
        if draw(st.integers(0, 3)):
            value = quote(value, safe="/" if hole in ("path", "rest") else "", errors="replace")
        path = path[:start] + value.replace("{", "(").replace("}", ")") + path[end + 1 :]
    return path


@pytest.mark.parametrize("name", sorted(RULES))
def test_any_request(name: str, world: World) -> None:
    """Answered, or refused with a documented code and the headers that clients decide from; no 500, and no secret comes out."""
    method, path = name.split(" ")

    @tried(30)
    @given(addresses(path), QUERIES, HEADERS, st.sampled_from(sorted(world.callers)), FORMS)
    def ask(address: str, query: dict[str, str], headers: dict[str, str], role: str, form: dict[str, Any]) -> None:
        try:
            world.service.client.build_request(method, address)
        except Exception:  # noqa: BLE001  an address that no client can ask for, whatever its library calls that
            return
        body = form if method == "POST" else {}
        answer = world.callers[role](method, address, whole=True, params=query, headers=headers, **body)
        code = world.check(answer)
        assert role != "nobody" or answer.status_code >= 400
        if code not in (None, "request.route", "request.method", "request.invalid") and "/api/v1" not in address:
            assert answer.headers["X-Error-Message"]
            assert (answer.status_code in (404, 410)) == (answer.headers.get("X-Error-Code") is not None) or role == "nobody"
        world.quiet()

    ask()

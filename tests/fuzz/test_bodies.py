"""Bytes of any kind as the body of each request that has one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.access_rules import RULES
from tests.fuzz.budget import tried
from tests.fuzz.nasty import ODD_TEXTS, spoilt
from tests.support.fuzz_world import World

ROUTES = [rule for rule in RULES if rule.startswith(("POST ", "PUT ", "PATCH "))]
FIELDS = st.sampled_from([
    "owner", "name", "family", "description", "readers", "directory", "parent", "copy", "version", "release", "recipe", "force",
    "patch", "files", "trained_on", "path", "size", "sha256", "reason", "to", "scopes", "role", "expires_in", "grace", "strategy",
    "dtype", "tokenizer", "\\ud800", "\\u0000",
])  # fmt: skip
JSON = st.recursive(
    st.one_of(st.sampled_from(ODD_TEXTS), st.from_regex(r"-?[0-9]{1,40}(\.[0-9]{1,9})?([eE][+-]?[0-9]{1,4})?", fullmatch=True)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=6).map(lambda items: f"[{','.join(items)}]"),
        st.lists(st.tuples(FIELDS, inner), max_size=6).map(lambda pairs: "{" + ",".join(f'"{k}":{v}' for k, v in pairs) + "}"),
    ),
    max_leaves=12,
)  # fmt: skip
GOOD = [b'{"owner":"acme","name":"x","family":"llama"}', b'{"reason":"r"}', b'{"patch":"acme/tone","release":"v1"}']
BODIES = st.one_of(
    st.binary(max_size=400), JSON.map(str.encode), st.sampled_from(GOOD).flatmap(spoilt),
    st.tuples(st.sampled_from(["[", '{"a":', "[{", "-", "1", '"', "\\u0000"]), st.integers(1, 100_000)).map(
        lambda pair: (pair[0] * pair[1]).encode()
    ),
    st.sampled_from(GOOD).map(lambda body: body.decode().encode("utf-16")),
)  # fmt: skip
TYPES = st.sampled_from([
    "application/json", "application/json; charset=utf-7", "application/xml", "text/plain", "multipart/form-data; boundary=x",
    "application/x-www-form-urlencoded", "application/vnd.x+json", "", "/", "application/json\xff",
])  # fmt: skip
ENCODINGS = st.sampled_from([None, "gzip", "deflate", "br", "zstd"])


@pytest.mark.parametrize("route", ROUTES)
def test_any_body(wild: World, route: str) -> None:
    """Refused, or understood; never an error of ours."""
    method, path = route.split(" ")

    @tried(6)
    @given(BODIES, TYPES, ENCODINGS, st.sampled_from(["admin", "publisher", "nobody"]), st.booleans())
    def send(body: bytes, media_type: str, encoding: str | None, role: str, is_there: bool) -> None:
        names = {name: found[0] if is_there else "nope" for name, found in wild.known.items()} | {"port": wild.known["port"][0]}
        url = path.replace("{path:path}", "{path}").format(**names | {"alias": "prod", "number": 1})
        headers = {"Content-Type": media_type.encode("latin-1"), "Upload-Offset": b"0"}
        if encoding:
            headers["Content-Encoding"] = encoding.encode()
        wild.check(wild.callers[role](method, url, content=body, headers=headers))
        wild.quiet()

    send()

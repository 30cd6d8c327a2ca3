"""Pushes, by whoever may push: bodies that fit and that do not; commits, batches, blocks and shards of noise."""

import base64
import json
import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.core.xet import DESCRIBED, TAG, VERIFIED
from tests.fuzz.budget import tried
from tests.fuzz.nasty import NAMES, spoilt
from tests.support.fuzz_world import World
from tests.support.pusher import here
from tests.support.xet_blocks import chunk

DIGESTS = st.sampled_from(["ab" * 32, "0" * 64, "x" * 64, "", "AB" * 32])
SIZES = st.sampled_from([0, 3, -1, 2**31, 2**62, 2**70, 1.5, True, None, "3"])
PATHS = st.one_of(
    st.sampled_from(["README.md", "adapter_config.json", "adapter_model.safetensors", "optimizer.pt", "a/b", "..", "/x", ""]),
    st.sampled_from(["tone", "acme", "base", "llama", *NAMES]), st.text(max_size=30),
    st.just("x" * 5000), st.just("\ud800"), st.none(),
)  # fmt: skip
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), PATHS, DIGESTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)
FILES = st.lists(st.fixed_dictionaries({}, optional={"path": PATHS, "size": SIZES, "sample": st.just("")}), max_size=4)
OBJECTS = st.lists(st.fixed_dictionaries({}, optional={"oid": DIGESTS, "size": SIZES}), max_size=4)
NAMED = st.fixed_dictionaries(
    {}, optional={"name": PATHS, "organization": PATHS, "type": PATHS, "private": JSON, "visibility": PATHS, "tag": PATHS}
)
BATCH = st.fixed_dictionaries(
    {"objects": OBJECTS}, optional={"operation": st.sampled_from(["upload", "download", 1]), "transfers": JSON}
)
BODIES = st.one_of(NAMED, BATCH, st.fixed_dictionaries({"files": FILES}), st.fixed_dictionaries({"content": PATHS}), JSON)
PLACES = [
    ("POST", "/api/repos/create"), ("DELETE", "/api/repos/delete"), ("POST", "/api/validate-yaml"),
    ("POST", "/api/models/{}/preupload/main"), ("POST", "/api/models/{}/tag/main"), ("POST", "/{}.git/info/lfs/objects/batch"),
    ("POST", "/api/objects/{}/verify"), ("POST", "/api/models/{}/branch/v9"), ("POST", "/api/models/{}/preupload/v9"),
]  # fmt: skip
REPOSITORIES = ["acme/tone", "acme/nope", "base/llama", "base/new", "acme/tone.merged", "rival/tone"]
LINES = st.fixed_dictionaries(
    {
        "key": st.sampled_from(["header", "file", "lfsFile", "deletedFile", "deletedFolder", "other", 1]),
        "value": st.one_of(
            JSON,
            st.fixed_dictionaries(
                {},
                optional={
                    "path": PATHS, "algo": st.sampled_from(["sha256", "md5"]), "oid": DIGESTS, "size": SIZES,
                    "content": st.one_of(st.binary(max_size=40).map(lambda b: base64.b64encode(b).decode()), PATHS),
                    "encoding": st.sampled_from(["base64", "utf-8", "x"]), "summary": PATHS, "parentCommit": PATHS,
                },
            ),
        ),
    }
)  # fmt: skip


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def callers(world: World) -> list[str]:
    return sorted(world.callers)


def test_bodies(world: World) -> None:
    """Every question and every announcement: answered, or refused with a documented code."""

    @tried(120)
    @given(
        st.sampled_from(PLACES), st.sampled_from(REPOSITORIES), st.one_of(BODIES.map(encoded), st.binary(max_size=80)), st.data()
    )
    def ask(place: tuple[str, str], repository: str, body: bytes, data: st.DataObject) -> None:
        role = data.draw(st.sampled_from(callers(world)))
        answer = world.callers[role](place[0], place[1].format(repository), whole=True, content=body)
        world.check(answer)
        assert role != "nobody" or answer.status_code in (401, 429)
        world.quiet()

    ask()


def test_commits(world: World) -> None:
    """Lines in any order, of any kind."""

    @tried(120)
    @given(st.sampled_from(REPOSITORIES), st.lists(LINES, max_size=5), st.booleans(), st.binary(max_size=30), st.data())
    def ask(repository: str, lines: list[Any], headed: bool, noise: bytes, data: st.DataObject) -> None:
        head = [{"key": "header", "value": {"summary": "x"}}] if headed else []
        body = b"\n".join([*map(encoded, [*head, *lines]), *([noise] if len(noise) > 25 else [])])
        revision = data.draw(st.sampled_from(["main", "v9", "side"]))
        caller = world.callers[data.draw(st.sampled_from(callers(world)))]
        world.check(caller("POST", f"/api/models/{repository}/commit/{revision}", whole=True, content=body))
        world.quiet()

    ask()


def test_blocks_and_shards(world: World) -> None:
    """By a session that is good: spoilt blocks, shards that name what is there and what is not."""
    name = world.new_patch()
    token = world.acme("GET", f"/api/models/{name}/xet-write-token/main", whole=True).json()
    url, headers = here(token["casUrl"]), {"Authorization": f"Bearer {token['accessToken']}"}
    good = chunk(b"a" * 1000, 1) + chunk(bytes(range(256)), 2) + chunk(b"plain")
    assert world.service.client.post(f"{url}/v1/xorbs/default/{'ab' * 32}", content=good, headers=headers).status_code == 200

    @tried(120)
    @given(
        spoilt(good),
        st.lists(
            st.tuples(st.integers(0, 2**32 - 1) | st.sampled_from([1000, 256, 5, 1261]), st.integers(0, 4), st.integers(0, 4)),
            max_size=4,
        ),
        st.sampled_from([DESCRIBED, DESCRIBED | VERIFIED, 0, VERIFIED]),
        st.binary(max_size=60),
        st.integers(1, 2**40),
    )
    def ask(block: bytes, terms: list[tuple[int, int, int]], flags: int, noise: bytes, number: int) -> None:
        answer = world.service.client.post(f"{url}/v1/xorbs/default/{number:064x}", content=block, headers=headers)
        world.check(answer)
        body = TAG + struct.pack("<QQ", 2, 0) + bytes(32) + struct.pack("<IIQ", flags, len(terms), 0)
        body += b"".join(b"\xab" * 32 + struct.pack("<IIII", 0, *term) for term in terms)
        body += bytes(48) * (len(terms) if flags & VERIFIED else 0) + (bytes(48) if flags & DESCRIBED else b"")
        for shard in (body + b"\xff" * 32 + bytes(16) + noise, body[: len(body) - len(noise)] + noise):
            world.check(world.service.client.post(f"{url}/v1/shards", content=shard, headers=headers))
        world.quiet()

    ask()

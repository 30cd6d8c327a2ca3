"""Small requests that want to become large: JSON, compression, keys and cursors without measure."""

import gzip
import io
import json
import time
import zipfile
import zlib

import pytest

from app.core.patch import HEADER_LIMITS
from tests.support.files import raw_file
from tests.support.fuzz_world import CONFIG, WEIGHTS, World
from tests.support.registry import refused

JSON = {"Content-Type": "application/json"}
EIGHT = 8 * 2**20
BOMBS = {
    "depth": b"[" * (EIGHT - 1), "objects": b'{"a":' * (EIGHT // 5), "lists": b"[" + b"[]," * 2_700_000 + b"[]]",
    "keys": b"{" + b",".join(b'"%d":0' % i for i in range(500_000)) + b"}", "digits": b'{"name":' + b"9" * 1_000_000 + b"}",
    "files": b'{"trained_on":"v1","files":[' + b",".join([b"{}"] * 1_000_000) + b"]}",
    "fields of files": json.dumps(
        {"trained_on": "v1", "files": [dict.fromkeys(map(str, range(60)), 0)] * 9_000}, separators=(",", ":")
    ).encode(),
}  # fmt: skip
REFUSED = {"digits": "request.invalid"}  # all others are not parsed


@pytest.mark.parametrize("bomb", BOMBS)
def test_nested_or_huge_json_is_refused_quickly(world: World, bomb: str) -> None:
    """Refused in a second or two: not parsed at all for strangers, and not explained item by item for those we know."""
    start = time.process_time()
    for role in ("nobody", "publisher"):
        answer = world.callers[role]("POST", "/patches/acme/tone/versions", content=BOMBS[bomb], headers=JSON)
        assert world.check(answer) == ("token.missing" if role == "nobody" else REFUSED.get(bomb, "request.too_complex"))
        assert len(answer.content) < 4000
    assert time.process_time() - start < 6


@pytest.mark.parametrize("authorization", [{}, {"Authorization": "Bearer plt_not-one-of-ours"}, {"Authorization": "Basic YTpi"}])
def test_large_bodies_of_strangers_are_not_read(world: World, authorization: dict[str, str]) -> None:
    """From 64 KiB on the token is looked at first, also where the rest of the body would never come."""
    read = 0

    def endless():  # type: ignore[no-untyped-def]
        nonlocal read
        while read < 2**20:
            read += 4096
            yield b" " * 4096

    address = "/api/v1/patches/acme/tone/versions"
    answer = world.service.client.post(address, content=b"".join(endless()), headers=JSON | authorization)
    problem = refused(answer, 401, "token.missing")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert problem["data"] == {}


def test_large_bodies_of_callers_are_read(world: World) -> None:
    """What is refused to strangers is allowed to those who have a token: a patch of many files."""
    files = [{"path": f"{i:04}", "size": 1, "sha256": "0" * 64} for i in range(2000)]
    answer = world.acme.post("/patches/acme/tone/versions", {"trained_on": "v1", "files": files})
    assert world.check(answer) == "adapter.missing_file"


def test_many_unknown_fields_are_counted_few_are_named(world: World) -> None:
    few = world.acme.post("/patches", {"owner": "acme", "name": "x", "family": "llama", "colour": "red"})
    assert "body.colour" in refused(few, 422, "request.invalid")["detail"]
    many = world.acme.post("/patches", {"owner": "acme", "name": "x", "family": "llama"} | dict.fromkeys(map(str, range(100)), 0))
    assert "103 fields" in refused(many, 422, "request.invalid")["detail"]


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as written:
        written.writestr(CONFIG, b" " * 2**20)
    return out.getvalue()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_requests_are_not_expanded(world: World, encoding: str) -> None:
    """A body is what was sent, whatever Content-Encoding says."""
    plain = b'{"owner":"acme","name":"zipped","family":"llama"}'
    packed = gzip.compress(plain) if encoding == "gzip" else zlib.compress(plain)
    answer = world.acme("POST", "/patches", content=packed, headers=JSON | {"Content-Encoding": encoding})
    assert world.check(answer) == "request.invalid"
    assert world.acme.get("/patches/acme/zipped").status_code == 404


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, lambda _: archive()])
def test_compressed_files_are_not_expanded(world: World, pack) -> None:  # type: ignore[no-untyped-def]
    """Neither weights nor configuration are unpacked: they are bytes that are no safetensors file and no JSON."""
    good = world.files()
    for name, code in ((WEIGHTS, "header."), (CONFIG, "adapter.invalid_config")):
        files = good | {name: pack(good[name])}
        draft = world.draft(world.new_patch(), files).json()
        world.send(draft, files)
        assert str(world.check(world.acme.post(f"/uploads/{draft['id']}/publish"))).startswith(code)


def test_archives_and_pickles_are_left_out(world: World) -> None:
    """Beside a patch they are dropped by name; in its place they are refused."""
    others = [
        "patch.zip",
        "patch.tar.gz",
        "weights.npz",
        "adapter_model.bin",
        "adapter_model.safetensors.gz",
        "pytorch_model.bin",
    ]
    files = world.files()
    draft = world.draft(world.new_patch(), files | dict.fromkeys(others, archive())).json()
    assert draft["dropped"] == sorted(others)
    assert {upload["path"] for upload in draft["uploads"]} == set(files)
    del files[WEIGHTS]
    for name, code in (("adapter_model.bin", "adapter.pickle"), ("patch.zip", "adapter.missing_file")):
        assert world.check(world.draft(world.new_patch(), files | {name: archive()})) == code


@pytest.mark.parametrize("claimed", [100 * 2**20, 2**31, 2**32 + 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1])
def test_header_with_a_false_length_allocates_nothing(world: World, claimed: int) -> None:
    """Nothing is set aside for what a file says of itself."""
    files = world.files() | {WEIGHTS: raw_file(b"{}", b"", claimed)}
    draft = world.draft(world.new_patch(), files).json()
    world.send(draft, files)
    assert world.check(world.acme.post(f"/uploads/{draft['id']}/publish")) == "header.too_large"


def test_more_tensors_than_any_adapter_has_are_refused_before_they_are_looked_at(world: World) -> None:
    """What is published is parsed again by every check of a port."""
    tensors = {}
    for number in range(HEADER_LIMITS.tensors // 2 + 1):
        for half, begin in (("A", 4 * number), ("B", 4 * number + 2)):
            name = f"base_model.model.{number}.lora_{half}.weight"
            tensors[name] = {"dtype": "F16", "shape": [1, 1], "data_offsets": [begin, begin + 2]}
    files = world.files() | {WEIGHTS: raw_file(tensors, bytes(2 * len(tensors)))}
    assert len(files[WEIGHTS]) < HEADER_LIMITS.length
    draft = world.draft(world.new_patch(), files).json()
    world.send(draft, files)
    refusal = world.acme.post(f"/uploads/{draft['id']}/publish")
    assert (refusal.status_code, world.check(refusal)) == (422, "header.too_many_tensors")


def test_a_header_longer_than_any_adapter_needs_is_refused(world: World) -> None:
    """Headers of releases may be longer: an admin registers those, and they are parsed once."""
    files = world.files()
    header = json.loads(files[WEIGHTS][8 : 8 + int.from_bytes(files[WEIGHTS][:8], "little")])
    header["__metadata__"] = {"x": "y" * HEADER_LIMITS.length}
    files[WEIGHTS] = raw_file(header, files[WEIGHTS][8 + int.from_bytes(files[WEIGHTS][:8], "little") :])
    draft = world.draft(world.new_patch(), files).json()
    world.send(draft, files)
    assert world.check(world.acme.post(f"/uploads/{draft['id']}/publish")) == "header.too_large"


@pytest.mark.parametrize(
    "header", ["Idempotency-Key", "If-Match", "If-None-Match", "If-Range", "Range", "Last-Event-ID", "Upload-Offset"]
)
@pytest.mark.parametrize("value", [b"a" * 1_000_000, b"9" * 5000, b"\xff\xfe", b"*", b'"' * 1000, b"-1", b"1e3", b"W/", b","])
def test_odd_request_headers_are_refused_or_ignored(world: World, header: str, value: bytes) -> None:
    """Refused or passed over, with a code and without an error of ours."""
    headers = {header: value}
    upload, port = world.known["upload"][0], world.known["port"][0]
    for method, url, body in (
        ("POST", "/patches", {"owner": "acme", "name": "tone", "family": "llama"}),
        ("PATCH", "/patches/acme/tone", {"description": ""}),
        ("GET", f"/ports/{port}/files/model.safetensors", None), ("GET", "/events", None),
        ("PATCH", f"/uploads/{upload}/files/{CONFIG}", None),
    ):  # fmt: skip
        answer = world.acme(method, url, json=body, headers=headers)
        world.check(answer)
        assert answer.status_code < 500
        assert len(answer.content) < 5000 or answer.status_code < 400
    if len(value) > 200 and header == "Idempotency-Key":
        assert (
            world.check(world.acme.post("/patches", {"owner": "acme", "name": "tone", "family": "llama"}, headers))
            == "request.invalid"
        )


def test_event_stream_with_an_invalid_last_event_id_is_refused(world: World) -> None:
    for last in (b"x", b"-1", b"9" * 30, b"1 OR 1=1", b"\xff"):
        headers = {"Accept": "text/event-stream", "Last-Event-ID": last}
        assert world.check(world.acme.get("/events", headers=headers)) == "request.invalid", last


def test_cursor_of_another_list_is_refused_or_harmless(world: World) -> None:
    """A cursor is a place in a list: in another it leads nowhere one may not go, and it is never an error of ours."""
    lists = ["/families", "/releases", "/patches", "/ports", "/jobs", "/tokens", "/patches/acme/tone/versions"]
    world.service.admin.family("other")
    world.acme.patch("acme", "other")
    world.acme.patch("acme", "another")
    cursors = [found for url in lists if (found := world.service.admin.get(url, limit=1).json().get("next_cursor"))]
    assert len(cursors) >= 3
    for url in lists:
        for cursor in cursors:
            for role in ("admin", "rival"):
                answer = world.callers[role].get(url, cursor=cursor)
                assert world.check(answer) in (None, "request.cursor", "token.scope", "patch.unknown"), answer.text

"""Pushes on the wire, in this process: who may name which bytes, what a commit can say, what breaks off and goes on."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.hub.xet.rebuilds import Rebuilds
from app.services.read_slots import NoSlotError
from tests.support.fixtures import Models
from tests.support.pusher import CARD, CONFIG, WEIGHTS, Pusher, digest, file, here, lfs, refused, unpublished_patch
from tests.support.registry import Service, unique
from tests.support.xet_blocks import chunk


@pytest.fixture(scope="module")
def service(registries: Callable[..., Service], models: Models) -> Iterator[Service]:
    with registries(quota_drafts=0).running() as running:
        running.admin.family("llama")
        assert running.release("llama", "v1", models.v1)["state"] == "ready"
        named = running.admin.post("/families/llama/aliases", {"name": str(models.v1), "release": "v1"})
        assert named.status_code == 201
        yield running


@pytest.fixture
def pusher(service: Service) -> Pusher:
    return Pusher(service, f"acme/{unique('wire')}").create()


@pytest.fixture
def patch(models: Models, tmp_path: Path) -> dict[str, bytes]:
    return unpublished_patch(models, tmp_path)


def push(pusher: Pusher, patch: dict[str, bytes]) -> httpx.Response:
    pusher.send(patch[WEIGHTS])
    return pusher.commit(file(CONFIG, patch[CONFIG]), file(CARD, patch[CARD]), lfs(WEIGHTS, patch[WEIGHTS]))


def test_preupload(pusher: Pusher, patch: dict[str, bytes]) -> None:
    """Weights by LFS, small text within the commit; what is there by git's name or sha256; and what is not sent."""
    asked = [{"path": p, "size": len(c), "sample": ""} for p, c in patch.items()]
    asked += [{"path": "training_args.bin", "size": 5, "sample": ""}, {"path": "tokenizer.json", "size": 2**21, "sample": ""}]

    def ask() -> dict[str, dict[str, Any]]:
        answer = pusher("POST", f"/api/models/{pusher.repository}/preupload/main", json={"files": asked, "gitIgnore": "*"})
        assert answer.status_code == 200, answer.text
        assert "training_args.bin" in answer.headers["X-HF-Warning"]
        return {one["path"]: one for one in answer.json()["files"]}

    before = ask()
    assert {p: o["uploadMode"] for p, o in before.items() if not o["shouldIgnore"]} == {
        CONFIG: "regular", CARD: "regular", WEIGHTS: "lfs", "tokenizer.json": "lfs",
    }  # fmt: skip
    assert all(one["oid"] is None for one in before.values())
    assert push(pusher, patch).status_code == 200
    after = ask()
    assert after[WEIGHTS]["oid"] == digest(patch[WEIGHTS])
    git = hashlib.sha1(b"blob %d\0%s" % (len(patch[CARD]), patch[CARD]), usedforsecurity=False).hexdigest()
    assert after[CARD]["oid"] == git
    assert after["tokenizer.json"]["oid"] is None


def test_a_digest_gives_nothing(service: Service, pusher: Pusher, patch: dict[str, bytes]) -> None:
    """What another owner has, or another repository of one's own, is not there for who only names it."""
    assert push(pusher, patch).status_code == 200
    for owner in ("rival", "acme"):
        thief = Pusher(service, f"{owner}/{unique('thief')}", owner).create()
        (asked,) = thief.batch(patch[WEIGHTS]).json()["objects"]
        assert "upload" in asked["actions"]
        refused(thief.commit(lfs(WEIGHTS, patch[WEIGHTS])), 422, "push.not_sent")
        refused(thief.commit(file(CONFIG, patch[CONFIG]), lfs(CARD, patch[WEIGHTS])), 422, "push.not_sent")
        named = {"oid": digest(patch[WEIGHTS]), "size": len(patch[WEIGHTS])}
        refused(thief("POST", here(asked["actions"]["verify"]["href"]), json=named), 409, "upload.incomplete")
        answer = service.client.put(here(asked["actions"]["upload"]["href"]), content=bytes(len(patch[WEIGHTS])))
        refused(answer, 422, "upload.digest")
        refused(thief.commit(lfs(WEIGHTS, patch[WEIGHTS])), 422, "push.not_sent")
        assert thief.versions() == []
    # In the same repository it need not be sent again.
    assert "actions" not in pusher.batch(patch[WEIGHTS]).json()["objects"][0]


def test_bytes_that_are_not_what_they_were_announced_as(service: Service, pusher: Pusher, patch: dict[str, bytes]) -> None:
    """Too few, too many, others: nothing of them counts, and the right ones can be sent then."""
    weights = patch[WEIGHTS]
    (asked,) = pusher.batch(weights).json()["objects"]
    (again,) = pusher.batch(weights).json()["objects"]
    place = here(asked["actions"]["upload"]["href"])
    assert place.split("?")[0] == here(again["actions"]["upload"]["href"]).split("?")[0], "one announcement, one charge"
    refused(service.client.put(place, content=weights[:-1]), 409, "upload.incomplete")
    refused(service.client.put(place, content=weights + b"x"), 413, "request.too_large")
    refused(service.client.put(place, content=weights[::-1]), 422, "upload.digest")
    refused(pusher.commit(lfs(WEIGHTS, weights)), 422, "push.not_sent")
    assert service.client.put(place, content=weights).status_code == 200
    assert service.client.put(place, content=weights).status_code == 200
    refused(pusher.commit(lfs(WEIGHTS, weights, size=len(weights) + 1)), 422, "push.not_sent")
    assert push(pusher, patch).status_code == 200


def test_addresses_are_signed(service: Service, pusher: Pusher, patch: dict[str, bytes]) -> None:
    """For one object, for an hour; nothing else opens them, and they open nothing else."""
    (asked,) = pusher.batch(patch[WEIGHTS]).json()["objects"]
    place = here(asked["actions"]["upload"]["href"])
    path, _, query = place.partition("?")
    other = here(pusher.batch(b"other").json()["objects"][0]["actions"]["upload"]["href"]).partition("?")[0]
    body, _, signature = query.removeprefix("signed=").partition(".")
    forged = base64.urlsafe_b64encode(b'{"owner":"acme","scopes":["admin"],"token":"t","exp":9e9,"upload":"x"}').decode()
    for wrong in (
        path,
        f"{other}?{query}",
        f"{path}?signed={forged}.{signature}",
        f"{path}?signed={body}.{'0' * 64}",
        f"{path}?signed=x",
    ):
        refused(service.client.put(wrong, content=patch[WEIGHTS]), 401, "upload.signature")
        refused(service.client.put(wrong, content=patch[WEIGHTS], headers=pusher.headers), 401, "upload.signature")
    session = pusher.session()
    refused(service.client.put(f"{path}?signed={session.headers['Authorization'][7:]}", content=b"x"), 401, "upload.signature")
    as_token = {"Authorization": f"Bearer {query.removeprefix('signed=')}"}
    refused(service.client.post(f"{session.url}/v1/shards", content=b"", headers=as_token), 401, "upload.signature")
    assert service.client.get("/api/v1/whoami", headers=session.headers).status_code == 401


def test_files_by_xet(service: Service, pusher: Pusher, patch: dict[str, bytes]) -> None:
    """Blocks of one session, put together as the shard says, and believed by their sha256."""
    weights, session, name = patch[WEIGHTS], pusher.session(), "ab" * 32
    used = lambda: service.admin.get("/owners/acme/usage").json()["bytes"]["used"]  # noqa: E731
    before = used()
    parts = [weights[at : at + 30_000] for at in range(0, len(weights), 30_000)]
    sent = b"".join(chunk(part, number % 3) for number, part in enumerate(parts))
    assert session.block(name, sent).json() == {"was_inserted": True}
    assert session.block(name, sent).json() == {"was_inserted": False}
    assert used() - before == len(sent)
    terms = [(name, sum(map(len, parts[:2])), 0, 2), (name, sum(map(len, parts[2:])), 2, len(parts))]
    hexed = digest(weights)
    refused(session.shard((digest(b"x"), terms)), 422, "xet.digest")
    refused(session.shard((hexed, terms[:1])), 422, "xet.digest")
    refused(session.shard((hexed, [(name, 5, 0, 2)])), 422, "xet.shard")
    refused(session.shard((hexed, [(name, 5, 0, 999)])), 422, "xet.shard")
    refused(session.shard((hexed, [("cd" * 32, 5, 0, 1)])), 422, "xet.shard")
    assert used() - before == len(sent)  # what a shard only says makes no room
    assert session.shard((hexed, terms)).json() == {"result": 1}
    assert session.shard((hexed, terms)).json() == {"result": 1}
    assert used() - before == max(len(sent), len(weights))
    made = pusher.commit(file(CONFIG, patch[CONFIG]), lfs(WEIGHTS, weights))
    assert made.status_code == 200, made.text
    (version,) = pusher.versions()
    assert {f["path"]: f["sha256"] for f in version["files"]}[WEIGHTS] == digest(weights)
    # Of another session, and of another repository, nothing is found.
    for stranger in (pusher.session("session-2"), Pusher(service, f"acme/{unique('other')}").create().session()):
        refused(stranger.shard((hexed, terms)), 422, "xet.shard")
    assert service.client.get(f"{session.url}/v1/chunks/default/{name}", headers=session.headers).status_code == 404
    for absent in ("v1/xorb-grants/default/" + name, "v2/shards"):
        assert service.client.post(f"{session.url}/{absent}", content=b"x" * 2**20, headers=session.headers).status_code == 404


def test_a_bomb_by_xet(service: Service, models: Models, registries: Callable[..., Service], patch: dict[str, bytes]) -> None:
    """A small block that a shard names again and again is refused before a byte of it is unpacked."""
    with registries(max_patch_bytes=10 * 2**20).running() as small:
        small.admin.family("llama")
        bomber = Pusher(small, "acme/bomb").create()
        session, name = bomber.session(), "ab" * 32
        assert session.block(name, chunk(bytes(100_000), 1)).status_code == 200
        refused(session.shard((digest(b""), [(name, 100_000, 0, 1)] * 1000)), 413, "request.too_large")
        refused(session.block("cd" * 32, b"\0" * 100), 422, "xet.block")
        refused(session.block("short", b"x"), 422, "request.invalid")


def test_a_shard_far_larger_than_its_blocks_is_refused_before_a_byte_is_unpacked(pusher: Pusher) -> None:
    """A chunk of 128 KiB of zeros that took some hundred bytes, named 3,000 times: 375 MiB."""
    session, name = pusher.session(), "ab" * 32
    assert session.block(name, chunk(bytes(2**17), 1)).status_code == 200
    message = refused(session.shard((digest(b""), [(name, 2**17, 0, 1)] * 3000)), 422, "xet.shard")
    assert "16 times" in message


def test_a_shard_of_very_many_tiny_parts_is_refused(pusher: Pusher) -> None:
    """Each is a read of the store."""
    session, name = pusher.session(), "ab" * 32
    assert session.block(name, chunk(b"x")).status_code == 200
    message = refused(session.shard((digest(b"x" * 1500), [(name, 1, 0, 1)] * 1500)), 422, "xet.shard")
    assert "1500 parts" in message
    assert session.shard((digest(b"x" * 900), [(name, 1, 0, 1)] * 900)).status_code == 200


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("not json", "no object"),
        ("[1]", "no object"),
        ('{"key": "file"}', "no object"),
        ('{"key": 1, "value": {}}', "no object"),
        ('{"key": "other", "value": {}}', "not known"),
        ('{"key": "file", "value": {"path": "README.md"}}', "content"),
        ('{"key": "file", "value": {"path": "README.md", "content": "!!"}}', "base64"),
        ('{"key": "file", "value": {"path": "", "content": ""}}', "path"),
        ('{"key": "file", "value": {"path": 5, "content": ""}}', "path"),
        ('{"key": "file", "value": {"path": "a\\u0000b", "content": ""}}', "path"),
        ('{"key": "file", "value": {"path": "\\ud800", "content": ""}}', "path"),
        ('{"key": "lfsFile", "value": {"path": "x", "algo": "md5", "oid": "0"}}', "sha256"),
        ('{"key": "lfsFile", "value": {"path": "x", "oid": "0", "size": -1}}', "size"),
        ('{"key": "lfsFile", "value": {"path": "x", "oid": "0", "size": true}}', "size"),
        ('{"key": "lfsFile", "value": {"path": "x", "oid": "' + "0" * 65 + '", "size": 1}}', "oid"),
        ('{"key": "deletedFile", "value": {}}', "path"),
        ('{"key": "header", "value": {"parentCommit": 5}}', "parentCommit"),
    ],
)
def test_what_a_commit_cannot_say(pusher: Pusher, line: str, word: str) -> None:
    """Refused by the number of the line, and nothing of the commit is taken."""
    body = f'{{"key":"header","value":{{}}}}\n{line}\n'
    message = refused(pusher("POST", f"/api/models/{pusher.repository}/commit/main", content=body), 422, "push.lines")
    assert "Line 2" in message
    assert word in message


def test_commits_are_bounded(pusher: Pusher) -> None:
    """In the length of a line, and in their number; an empty one says nothing."""
    place = f"/api/models/{pusher.repository}/commit/main"
    refused(pusher("POST", place, content=b""), 422, "push.lines")
    refused(pusher("POST", place, content=b'{"key":"file","value":{"path":"README.md","content":""}}'), 422, "push.lines")
    refused(pusher("POST", place, content=b"x" * 2**21), 413, "request.too_large")
    refused(pusher("POST", place, content=b"[" + b"[]," * 300_000 + b"1]"), 413, "request.too_complex")
    many = b'{"key":"deletedFile","value":{"path":"x"}}\n' * 10_001
    refused(pusher("POST", place, content=many), 422, "push.lines")
    assert pusher.commit().status_code == 200


@pytest.mark.parametrize("revision", ["side", "refs%2Fpr%2F1", "1", "v1@2", "0" * 40])
def test_one_line_of_versions(pusher: Pusher, revision: str) -> None:
    """Nothing but main is pushed to."""
    refused(pusher.commit(file(CARD, b"# x"), revision=revision), 422, "push.revision")
    answer = pusher("GET", f"/api/models/{pusher.repository}/xet-write-token/{revision}")
    refused(answer, 422, "push.revision")


def test_a_push_that_broke_off_goes_on(service: Service, pusher: Pusher, patch: dict[str, bytes]) -> None:
    """What was committed before it broke off is there; what was sent need not be sent again, and is not charged again."""
    used = lambda: service.admin.get("/owners/acme/usage").json()["bytes"]["used"]  # noqa: E731
    before = used()
    assert pusher.commit(file(CONFIG, patch[CONFIG])).status_code == 200
    pusher.send(patch[WEIGHTS])
    assert pusher.versions() == []
    assert used() - before == len(patch[CONFIG]) + len(patch[WEIGHTS])
    pusher.send(patch[WEIGHTS])
    assert used() - before == len(patch[CONFIG]) + len(patch[WEIGHTS])
    assert pusher.commit(file(CARD, patch[CARD]), lfs(WEIGHTS, patch[WEIGHTS])).status_code == 200
    (version,) = pusher.versions()
    assert used() - before == version["total_bytes"] == sum(map(len, patch.values()))


def test_killed_between_its_transactions(
    service: Service, pusher: Pusher, patch: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service ended after the bytes were taken into the store and before the version was written: the same commit again."""
    from app.services.hubview import push_publishing

    def dies(*_: object) -> None:
        raise RuntimeError

    pusher.send(patch[WEIGHTS])
    with monkeypatch.context() as patched:
        patched.setattr(push_publishing, "_publish", dies)
        answer = pusher.commit(file(CONFIG, patch[CONFIG]), lfs(WEIGHTS, patch[WEIGHTS]))
    assert answer.status_code == 500
    assert pusher.versions() == []
    assert push(pusher, patch).status_code == 200
    assert [v["number"] for v in pusher.versions()] == [1]


def test_a_draft_that_was_given_up(service: Service, pusher: Pusher, patch: dict[str, bytes]) -> None:
    """After a day the sweep takes it, and what was sent for it; the announced repository stays, and can be pushed to."""
    from app.services.operations.maintenance import sweep_all

    assert pusher.commit(file(CONFIG, patch[CONFIG])).status_code == 200
    pusher.send(patch[WEIGHTS])
    long_ago = "2001-01-01 00:00:00.000000"
    service.execute(f"UPDATE pushes SET touched_at = '{long_ago}' WHERE repository = :name", name=pusher.repository)
    service.execute(f"UPDATE pushed_objects SET created_at = '{long_ago}' WHERE repository = :name", name=pusher.repository)
    assert sweep_all(service.runtime.read, service.runtime.write)["pushes"] >= 1
    left = "SELECT count(*) FROM pushed_objects WHERE repository = :name"
    assert service.rows(left, name=pusher.repository) == [(0,)]
    refused(pusher.commit(lfs(WEIGHTS, patch[WEIGHTS])), 422, "push.not_sent")
    assert push(pusher, patch).status_code == 200


def test_purged_bytes_are_not_pushed_again(service: Service, pusher: Pusher, patch: dict[str, bytes]) -> None:
    """The same files are refused for their owner, and nothing that was sent of them stays."""
    assert push(pusher, patch).status_code == 200
    pusher.send(patch[WEIGHTS] + b"")
    purged = service.admin.post(f"/patches/{pusher.repository}/versions/1/purge", {"reason": "test"})
    assert purged.status_code == 200, purged.text
    again = Pusher(service, pusher.repository)
    refused(push(again, patch), 410, "version.purged")
    left = "SELECT count(*) FROM pushed_objects WHERE repository = :name AND digest = :digest"
    assert service.rows(left, name=pusher.repository, digest=digest(patch[WEIGHTS])) == [(0,)]


def test_who_may_push(service: Service, pusher: Pusher, patch: dict[str, bytes]) -> None:
    """A reader may not, a stranger finds nothing, and only an admin pushes a base."""
    reader = Pusher(service, pusher.repository, "acme", "read")
    stranger = Pusher(service, pusher.repository, "rival")
    for one, status, code in ((reader, 403, "token.scope"), (stranger, 404, "hub.repository")):
        refused(one.commit(file(CARD, b"x")), status, code)
        refused(one.batch(b"x"), status, code)
        refused(one("GET", f"/api/models/{pusher.repository}/xet-write-token/main"), status, code)
        refused(one("POST", f"/api/models/{pusher.repository}/preupload/main", json={"files": []}), status, code)
        refused(one("POST", f"/api/models/{pusher.repository}/tag/main", json={"tag": "x"}), status, code)
        refused(one("DELETE", "/api/repos/delete", json={"name": pusher.repository[5:], "organization": "acme"}), status, code)
    base = Pusher(service, "base/llama")
    refused(base.commit(file("config.json", b"{}"), revision="v9"), 403, "token.scope")
    refused(base("POST", "/api/repos/create", json={"name": "new", "organization": "base"}), 403, "token.scope")


def test_a_base_in_parts(service: Service, models: Models) -> None:
    """A release begins to exist when all that its index names is there; a wrong one is rejected with the reason."""
    admin = Pusher(service, "base/llama", "acme", "admin", "read", "publish")
    names = sorted(p.name for p in models.v2.iterdir() if p.is_file())
    for name in names:
        content = (models.v2 / name).read_bytes()
        admin.send(content)
        answer = admin.commit(lfs(name, content), revision="pushed")
        assert answer.status_code == 200, answer.text
        rows = service.admin.get("/families/llama/releases/pushed").status_code
        assert rows == (200 if "is being read now" in answer.headers["X-HF-Warning"] else 404)
        if rows == 200:
            break
    service.run_jobs()
    row = service.admin.get("/families/llama/releases/pushed").json()
    assert row["state"] == "ready", row
    refused(admin.commit(lfs("config.json", b"{}"), revision="pushed"), 409, "push.released")
    refused(admin.commit(revision="main"), 422, "push.base_revision")
    for name, content in (("config.json", b'{"model_type": "unheard-of"}'), ("model.safetensors", b"no weights")):
        admin.send(content)
        assert admin.commit(lfs(name, content), revision="wrong").status_code == 200
    service.run_jobs()
    row = service.admin.get("/families/llama/releases/wrong").json()
    assert (row["state"], row["problem"]["code"]) == ("rejected", "checkpoint.architecture")


def test_inline_files_beyond_what_is_held_in_memory_are_recorded_before_the_commit_ends(service: Service) -> None:
    """A commit that breaks off after them finds them again; all of them are in the next one."""
    admin = Pusher(service, "base/llama", "acme", "admin", "read", "publish")
    contents = {f"{unique('vocabulary')}.txt": bytes([number]) * 700_000 for number in range(3)}
    lines = [file(path, content) for path, content in contents.items()]
    count = "SELECT count(*) FROM pushed_objects WHERE repository = 'base/llama' AND size = 700000"
    refused(admin.commit(*lines, {"key": "unknown", "value": {}}, revision="inline"), 422, "push.lines")
    assert service.rows(count) == [(2,)]
    assert admin.commit(*lines, revision="inline").status_code == 200
    assert service.rows(count) == [(3,)]


def test_tags_are_of_patches(service: Service) -> None:
    """Releases have names already."""
    admin = Pusher(service, "base/llama", "acme", "admin", "read", "publish")
    refused(admin("POST", "/api/models/base/llama/tag/v1", json={"tag": "x"}), 422, "push.tags")
    refused(admin("DELETE", "/api/models/base/llama/tag/x"), 422, "push.tags")


def test_push_of_two_files_with_the_same_bytes_keeps_both(pusher: Pusher, patch: dict[str, bytes]) -> None:
    same = [file(path, b"{}") for path in ("added_tokens.json", "special_tokens_map.json")]
    pusher.send(patch[WEIGHTS])
    assert pusher.commit(file(CONFIG, patch[CONFIG]), lfs(WEIGHTS, patch[WEIGHTS]), *same).status_code == 200
    for path in ("added_tokens.json", "special_tokens_map.json"):
        assert pusher("GET", f"/{pusher.repository}/resolve/main/{path}").content == b"{}"


def test_push_refused_as_busy_goes_on_with_bytes_that_went_straight_to_the_store(
    service: Service, pusher: Pusher, patch: dict[str, bytes]
) -> None:
    """They were hashed and moved before the refusal, so the same commit again finds them."""
    pusher.send(patch[WEIGHTS])
    service.execute("UPDATE pushed_objects SET multipart = 'parts' WHERE repository = :name", name=pusher.repository)
    lines, checks = (file(CONFIG, patch[CONFIG]), lfs(WEIGHTS, patch[WEIGHTS])), service.runtime.tools.checks
    with ExitStack() as stack:
        with suppress(NoSlotError):
            while True:
                stack.enter_context(checks.hold("acme"))
        refused(pusher.commit(*lines), 503, "server.busy")
    assert pusher.commit(*lines).status_code == 200
    assert [version["number"] for version in pusher.versions()] == [1]


def test_what_was_published_before(pusher: Pusher, patch: dict[str, bytes]) -> None:
    """Going back to the files of an older version makes no new one, and main does not move: it is said what to do."""
    assert push(pusher, patch).status_code == 200
    assert pusher.commit(file(CARD, b"# newer")).status_code == 200
    assert "version 1" in refused(pusher.commit(file(CARD, patch[CARD])), 409, "push.older")
    assert [v["number"] for v in pusher.versions()] == [2, 1]
    assert pusher.commit(file(CARD, b"# newest")).status_code == 200


def test_bytes_that_are_gone(service: Service, pusher: Pusher, patch: dict[str, bytes]) -> None:
    """What a draft names was swept meanwhile: said so, and pushed again it goes through."""
    assert pusher.commit(file(CONFIG, patch[CONFIG])).status_code == 200
    pusher.send(patch[WEIGHTS])
    config = next(f for f in _draft(service, pusher) if f["path"] == CONFIG)
    service.execute("DELETE FROM pushed_objects WHERE id = :id", id=config["object"])
    answer = pusher.commit(lfs(WEIGHTS, patch[WEIGHTS]))
    assert answer.json()["code"] in ("push.lost", "blob.missing"), answer.text
    assert push(pusher, patch).status_code == 200


def _draft(service: Service, pusher: Pusher) -> list[dict[str, Any]]:
    ((files,),) = service.rows("SELECT files FROM pushes WHERE repository = :name", name=pusher.repository)
    return list(json.loads(files) if isinstance(files, str) else files)


def test_leave_expires(service: Service, pusher: Pusher, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its hour, an address and a token open nothing."""
    from app.services.uploads import upload_grants

    monkeypatch.setattr(upload_grants, "UPLOAD_SECONDS", -5)
    (asked,) = pusher.batch(b"late").json()["objects"]
    refused(service.client.put(here(asked["actions"]["upload"]["href"]), content=b"late"), 401, "upload.expired")
    refused(pusher.session().block("ab" * 32, b"x"), 401, "upload.expired")


def test_a_shard_that_finds_no_place_is_told_to_come_back(service: Service, pusher: Pusher) -> None:
    before, service.app.state.rebuilds = service.app.state.rebuilds, Rebuilds(places=1, wait_seconds=0.05)
    try:
        assert pusher.session().shard().status_code == 200
        taken = service.app.state.rebuilds.turn("acme")
        service.client.portal.call(taken.__aenter__)
        answer = pusher.session().shard()
        refused(answer, 503, "push.busy")
        assert answer.headers["Retry-After"]
        other = Pusher(service, f"rival/{unique('shard')}", "rival").create()
        assert other.session().shard().status_code == 200
    finally:
        service.app.state.rebuilds = before


def test_a_client_that_goes_away() -> None:
    """What it began to send ends with a refusal that nobody hears, and not as if it were all."""
    import asyncio

    from starlette.requests import Request

    from app.domain.errors import DomainError
    from app.http.request_streams import pieces

    messages = iter([{"type": "http.request", "body": b"abc", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def read() -> list[bytes]:
        return [piece async for piece in pieces(Request({"type": "http"}, receive), 2)]

    with pytest.raises(DomainError) as caught:
        asyncio.run(read())
    assert caught.value.code == "upload.broken"


def test_repository_and_tag_leave_events(service: Service, pusher: Pusher, patch: dict[str, bytes]) -> None:
    """A repository that is announced and forgotten; a tag that is taken away."""
    one = Pusher(service, "acme/short-lived").create()
    assert one("DELETE", "/api/repos/delete", json={"name": "short-lived", "organization": "acme"}).status_code == 200
    assert push(pusher, patch).status_code == 200
    assert pusher("POST", f"/api/models/{pusher.repository}/tag/main", json={"tag": "prod"}).status_code == 200
    assert pusher("DELETE", f"/api/models/{pusher.repository}/tag/prod").status_code == 200
    query = "SELECT kind FROM events WHERE subject IN (:repository, :tag) ORDER BY id"
    assert service.rows(query, repository=one.repository, tag=f"{pusher.repository}@prod") == [
        ("repository.announced",), ("repository.forgotten",), ("alias.moved",), ("alias.removed",),
    ]  # fmt: skip

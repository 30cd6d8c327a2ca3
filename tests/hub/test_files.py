"""The Hub protocol: files, and the headers from which its clients decide what they have and what they lack."""

import hashlib
import json

import pytest

from tests.support.fixtures import World
from tests.support.hub_requests import COMMIT, Hub, refused_by_hub
from tests.support.registry import refused


@pytest.fixture
def hub(world: World) -> Hub:
    return Hub(world.acme)


@pytest.fixture
def shard(hub: Hub) -> str:
    """A computed file of the merged model."""
    return next(e["path"] for e in hub.tree("acme/tone.merged", "v2") if e["path"].endswith(".safetensors") and "lfs" not in e)


def test_head_of_computed_weights_has_etag_length_and_commit(hub: Hub, world: World, shard: str) -> None:
    """Of computed weights: the recipe's ETag, the length, the commit; nothing of Xet, which clients would then ask for."""
    head = hub.head(f"/acme/tone.merged/resolve/v2/{shard}")
    listed = world.acme.get(f"/ports/{world.port['id']}/files").json()["files"]
    known = next(file for file in listed if file["path"] == shard)
    assert head.status_code == 200
    assert head.headers["ETag"] == head.headers["X-Linked-Etag"] == f'"{known["etag"]}"'
    assert len(known["etag"]) == 40
    assert head.headers["Content-Length"] == head.headers["X-Linked-Size"] == str(known["size"])
    assert head.headers["Accept-Ranges"] == "bytes"
    assert head.headers[COMMIT] == hub.sha("acme/tone.merged", "v2")
    assert not [name for name in head.headers if "xet" in name]
    assert "location" not in head.headers


def test_etag_of_a_stored_file_is_its_digest(hub: Hub, world: World) -> None:
    """The patch's own, the base's own, and what the merge carries over."""
    for repository, revision, path, content in (
        ("acme/tone", "1", "adapter_model.safetensors", world.models.patch / "adapter_model.safetensors"),
        ("base/llama", "v2", "config.json", world.models.v2 / "config.json"),
        ("acme/tone.merged", "v2", "tokenizer.json", world.models.v2 / "tokenizer.json"),
    ):
        got = hub.file(repository, revision, path)
        assert got.content == content.read_bytes()
        assert got.headers["ETag"] == f'"{hashlib.sha256(got.content).hexdigest()}"'


def test_merged_bytes_over_the_hub_equal_those_of_the_port(hub: Hub, world: World, shard: str) -> None:
    """Whole, by range, from an offset on, and from the end."""
    whole = hub.file("acme/tone.merged", "v2@1", shard)
    assert whole.content == world.acme.get(f"/ports/{world.port['id']}/files/{shard}").content
    for asked, part in (
        ("bytes=10-99", whole.content[10:100]),
        ("bytes=5000-", whole.content[5000:]),
        ("bytes=-7", whole.content[-7:]),
    ):
        got = hub.file("acme/tone.merged", "v2@1", shard, headers={"Range": asked})
        assert (got.status_code, got.content) == (206, part)
        assert got.headers[COMMIT] == whole.headers[COMMIT]
    beyond = hub.file("acme/tone.merged", "v2@1", shard, headers={"Range": f"bytes={len(whole.content)}-"})
    assert (beyond.status_code, beyond.json()["code"]) == (416, "request.range")


def test_ranges_of_stored_and_generated_files_are_served(hub: Hub) -> None:
    for repository, path in (
        ("base/llama", "tokenizer.json"),
        ("acme/tone", "adapter_model.safetensors"),
        ("acme/tone.merged", "README.md"),
    ):
        whole = hub.file(repository, "main", path)
        part = hub.file(repository, "main", path, headers={"Range": "bytes=3-40", "If-Range": whole.headers["ETag"]})
        assert (part.status_code, part.content) == (206, whole.content[3:41])
        assert part.headers["Content-Range"] == f"bytes 3-40/{len(whole.content)}"
        other = hub.file(repository, "main", path, headers={"Range": "bytes=3-40", "If-Range": '"another"'})
        assert (other.status_code, other.content) == (200, whole.content)
        same = hub.file(repository, "main", path, headers={"If-None-Match": whole.headers["ETag"]})
        assert (same.status_code, same.content, same.headers[COMMIT]) == (304, b"", whole.headers[COMMIT])


def test_file_of_a_commit_is_immutable_for_caches(hub: Hub, shard: str) -> None:
    """By its commit a file never changes; by a name it may be another tomorrow."""
    sha = hub.sha("acme/tone.merged")
    for path in (shard, "README.md", "config.json"):
        pinned, moving = (hub.head(f"/acme/tone.merged/resolve/{rev}/{path}").headers["Cache-Control"] for rev in (sha, "main"))
        assert pinned.startswith("private, immutable")
        assert "immutable" not in moving
        assert moving.startswith("private")


def test_stored_files_are_sandboxed_in_browsers(hub: Hub) -> None:
    for repository, path in (("acme/tone.merged", "README.md"), ("base/llama", "config.json"), ("acme/tone", "README.md")):
        got = hub.file(repository, "main", path)
        assert got.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in got.headers["Content-Security-Policy"]


def test_unknown_file_is_404_and_names_the_commit(hub: Hub) -> None:
    """Clients remember that a commit lacks a file, so the refusal names the commit."""
    for repository in ("acme/tone.merged", "acme/tone", "base/llama"):
        missing = hub.file(repository, "main", "adapter_nope.json")
        refused_by_hub(missing, 404, "EntryNotFound", "hub.entry")
        assert missing.headers[COMMIT] == hub.sha(repository)
    head = hub.head("/acme/tone.merged/resolve/main/adapter_config.json")
    assert (head.status_code, head.headers["X-Error-Code"], len(head.headers[COMMIT])) == (404, "EntryNotFound", 40)


def test_unknown_and_hidden_repositories_are_404(hub: Hub, world: World) -> None:
    """A repository, a revision, a port that nobody made; the same for one that another owns."""
    for path in ("acme/nope", "acme/tone.merged.merged", "Acme/Tone", "base/nope", "gpt2", "acme/a--b", "acme/x.git"):
        answer = hub.file(path, "main", "config.json")
        assert (answer.status_code, answer.headers["X-Error-Code"]) == (404, "RepoNotFound"), path
    refused_by_hub(hub.file("gpt2", "main", "config.json"), 404, "RepoNotFound", "hub.repository")
    refused_by_hub(hub.get("/api/models/gpt2"), 404, "RepoNotFound", "hub.repository")
    refused_by_hub(hub.get("/api/datasets/acme/tone"), 404, "RepoNotFound", "hub.repository")
    refused_by_hub(hub.file("datasets/acme/tone", "main", "x"), 404, "RepoNotFound", "hub.repository")
    refused_by_hub(hub.file("acme/tone", "1@v2@3", "x"), 404, "RevisionNotFound", "hub.revision")
    refused_by_hub(hub.file("acme/tone", "9", "x"), 404, "RevisionNotFound", "version.unknown")
    refused_by_hub(hub.file("acme/tone.merged", "wide", "x"), 404, "RevisionNotFound", "port.none")
    refused_by_hub(hub.file("acme/tone.merged", "f" * 40, "x"), 404, "RevisionNotFound", "hub.revision")
    refused_by_hub(hub.file("base/llama", "v9", "x"), 404, "RevisionNotFound", "release.unknown")
    rival = Hub(world.rival)
    for repository in ("acme/tone", "acme/tone.merged", "acme/nope"):
        refused_by_hub(rival.file(repository, "main", "config.json"), 404, "RepoNotFound", "patch.unknown")
        refused_by_hub(rival.get(f"/api/models/{repository}"), 404, "RepoNotFound", "patch.unknown")


def test_missing_and_bad_tokens_are_answered_as_by_the_hub(world: World) -> None:
    """No token: there may be a repository, nobody says. A bad one: the words that clients know."""
    path = "/api/models/acme/tone"
    none = world.service.client.get(path)
    assert (none.status_code, none.headers["X-Error-Code"]) == (401, "RepoNotFound")
    bad = world.service.client.get(path, headers={"Authorization": "Bearer plt_wrong"})
    assert bad.status_code == 401
    assert bad.headers["X-Error-Message"] == "Invalid credentials in Authorization header"
    assert "X-Error-Code" not in bad.headers
    refused(bad, 401, "token.missing")


def test_whoami_names_owner_and_role(world: World) -> None:
    for caller, role in ((world.acme, "write"), (world.reader, "read")):
        found = Hub(caller).get("/api/whoami-v2").json()
        assert (found["type"], found["name"], found["orgs"]) == ("user", "acme", [])
        assert found["auth"]["accessToken"]["role"] == role
    assert Hub(world.acme).get("/api/models/acme/tone/auth-check").status_code == 200
    refused_by_hub(Hub(world.rival).get("/api/models/acme/tone/auth-check"), 404, "RepoNotFound", "patch.unknown")


@pytest.mark.parametrize("path", [
    "..%2f..%2fadmin-token", "..%2fconfig.json", "%2e%2e%2fx", "config.json%00", "config.json/", "/config.json", "a" * 5000,
    "%ff%fe", "\u202econfig.json", "*", "%25", "%0d%0aX-Evil:%201", "con", "config.json%0a", "%c0%ae%c0%ae/x",
])  # fmt: skip
def test_hostile_path_is_refused(hub: Hub, path: str) -> None:
    """No path of a client's becomes a path of ours: what is not listed is not there, and nothing of it becomes a header."""
    for method in ("GET", "HEAD"):
        answer = hub.caller(method, f"/acme/tone.merged/resolve/main/{path}", whole=True)
        assert answer.status_code in (404, 422), (answer.status_code, answer.text)
        assert "X-Evil" not in answer.headers


@pytest.mark.parametrize("revision", [
    "refs%2Fheads%2Fmain", "refs%2Fpr%2F1", "main%00", "...", "v2%40", "%401", "v2%401%402", "-1", "0", "01", "1e3", "9" * 30,
    "V2", "a" * 3000, "\u0661", "main%20", "%F0%9F%92%A9", "v2@99999999999", "@", "main@v2", "A" * 40,
])  # fmt: skip
def test_hostile_revision_is_refused(hub: Hub, revision: str) -> None:
    for repository in ("acme/tone", "acme/tone.merged", "base/llama"):
        for path in (f"/{repository}/resolve/{revision}/config.json", f"/api/models/{repository}/revision/{revision}"):
            answer = hub.get(path)
            assert answer.status_code in (404, 422), (path, answer.status_code)


def test_encoded_revision_is_decoded(hub: Hub) -> None:
    """Clients encode everything that is not a letter."""
    assert hub.sha("acme/tone.merged", "v2%401") == hub.sha("acme/tone.merged", "v2@1")
    assert hub.file("acme/tone", "1%40v2", "adapter_config.json").status_code == 200


def test_configuration_under_another_release_is_rewritten(hub: Hub, world: World) -> None:
    """Rewritten under N@RELEASE, size and ETag are those of what is sent; under N it is as it was published."""
    stored = (world.models.patch / "adapter_config.json").read_bytes()
    assert hub.file("acme/tone", "1", "adapter_config.json").content == stored
    rewritten = hub.file("acme/tone", "1@v2", "adapter_config.json")
    config = json.loads(rewritten.content)
    assert (config.pop("base_model_name_or_path"), config.pop("revision")) == ("base/llama", "v2")
    before = json.loads(stored)
    assert config == {key: value for key, value in before.items() if key not in ("base_model_name_or_path", "revision")}
    assert rewritten.headers["ETag"] == f'"{hashlib.sha256(rewritten.content).hexdigest()}"'
    listed = {entry["path"]: entry["size"] for entry in hub.tree("acme/tone", "1@v2")}
    assert listed["adapter_config.json"] == len(rewritten.content)
    same = [hub.file("acme/tone", rev, "adapter_model.safetensors").headers["ETag"] for rev in ("1", "1@v2")]
    assert same[0] == same[1]
    assert hub.sha("acme/tone", "1") != hub.sha("acme/tone", "1@v2")
    refused_by_hub(hub.file("acme/tone", "1@wide", "adapter_config.json"), 404, "RevisionNotFound", "port.none")

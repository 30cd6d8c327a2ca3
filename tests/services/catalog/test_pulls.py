"""Releases that are pulled from another hub: what is fetched and what is not, faults on the way, and what is never believed."""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.clients import hub as hub_client
from app.core.checkpoint import INDEX_FILE
from app.jobs import child, runner
from app.jobs.tasks import download
from app.jobs.tasks.context import StartReport
from app.services.operations import garbage_collection
from tests.support.fake_hub import SIGNATURE, FakeHub, Fault, running_hub
from tests.support.fixtures import Models
from tests.support.registry import Service, refused, unique
from tests.support.upstreams import known

TOKEN = "hf_sEcReT-of-the-upstream"


@pytest.fixture(scope="module")
def service(registries: Callable[..., Service]) -> Iterator[Service]:
    with registries().running() as service:
        service.admin.family("llama")
        yield service


@pytest.fixture
def hub(service: Service, models: Models, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that the registry knows as `own`, with the tiny llama as org/llama; whoever waits for it waits shortly."""
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.01)
    with running_hub() as hub:
        hub.add("org/llama", models.v1)
        known(service, hub)
        yield hub


def register(service: Service, source: str = "own:org/llama", name: str = "") -> Any:
    return service.admin.post("/families/llama/releases", {"name": name or unique("v"), "directory": source})


def pulled(service: Service, source: str = "own:org/llama") -> dict[str, Any]:
    """Registers, runs the job; the release as it then is."""
    registered = register(service, source)
    assert registered.status_code == 202, registered.text
    service.run_jobs()
    return dict(service.admin.get(f"/families/llama/releases/{registered.json()['name']}").json())


def shards(models: Models) -> list[Path]:
    return sorted(models.v1.glob("*.safetensors"))


def test_pulled_release_equals_its_directory(service: Service, hub: FakeHub, models: Models) -> None:
    """It is the release that lies in the directory, file by file, and says where it came from."""
    commit = hub.repositories["org/llama"].commit
    release = pulled(service)
    assert release["state"] == "ready", release["problem"]
    assert release["source"] == f"own:org/llama@{commit}"
    assert release["origin"] == {
        "upstream": "own", "endpoint": hub.url, "repository": "org/llama", "revision": "main", "commit": commit,
    }  # fmt: skip
    assert release["copied"]
    local = service.release("llama", unique("local"), models.v1)
    assert release["manifest"] == local["manifest"]
    with service.runtime.read() as uow:
        files = service.runtime.tools.artifacts.read_manifest(release["manifest"]).file_digests
        assert files == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in models.v1.iterdir()}
        assert [u for u, _ in uow.tools.blobs.uploads() if u.startswith("pull-")] == []
    assert service.rows("SELECT count(*) FROM pulls") == [(0,)]


def test_pulled_release_serves_merged_models(service: Service, hub: FakeHub, models: Models) -> None:
    """What was pulled serves merged models like any release."""
    release = pulled(service)["name"]
    acme = service.caller("acme")
    name = acme.patch("acme", unique("tone"))
    acme.publish(name, models.patch, trained_on=release)
    port = acme.port(name, release)
    assert port["state"] == "ready", port["findings"]
    shard = shards(models)[0]
    merged = acme.get(f"/ports/{port['id']}/files/{shard.name}")
    assert (merged.status_code, len(merged.content)) == (200, shard.stat().st_size)


def test_what_ingestion_leaves_out_is_not_fetched(service: Service, hub: FakeHub, models: Models) -> None:
    """Pickles, other formats, code and hidden files; the release says which lay there."""
    foreign = {"pytorch_model.bin": b"p", "gguf/model.gguf": b"g", "modeling.py": b"c", ".gitattributes": b"a"}
    repository = hub.add("org/much", models.v1)
    repository.files |= {**foreign, "README.md": b"# card", "consolidated.safetensors": b"other weights"}
    release = pulled(service, "own:org/much")
    assert release["state"] == "ready", release["problem"]
    left_out = {"pytorch_model.bin", "gguf/model.gguf", "modeling.py", "consolidated.safetensors"}
    assert set(release["summary"]["left_out"]) == left_out
    for path in (*left_out, ".gitattributes"):
        assert not hub.fetched(path), path
    assert hub.fetched("README.md")


def test_only_pickles_are_refused_before_anything_large_is_fetched(service: Service, hub: FakeHub, models: Models) -> None:
    repository = hub.add("org/old", models.v1)
    for path in [p for p in repository.files if p.endswith(".safetensors") or p == INDEX_FILE]:
        del repository.files[path]
    repository.files["pytorch_model.bin"] = b"pickle"
    release = pulled(service, "own:org/old")
    assert (release["state"], release["problem"]["code"]) == ("rejected", "checkpoint.no_weights")
    assert {a.path.rpartition("/")[2] for a in hub.asked if "/resolve/" in a.path} == {"config.json"}


def test_pull_repeated_returns_the_release(service: Service, hub: FakeHub, models: Models) -> None:
    """In the same words it is there; when the revision has moved on it is another release, which needs another name."""
    name = pulled(service)["name"]
    again = register(service, name=name)
    assert (again.status_code, again.json()["state"]) == (200, "ready")
    hub.repositories["org/llama"].files["README.md"] = b"moved on"
    refused(register(service, name=name), 409, "release.taken")


def test_pull_repeated_under_a_key_does_not_ask_the_hub(service: Service, hub: FakeHub) -> None:
    """A repeat is answered without asking the hub."""
    body = {"name": unique("v"), "directory": "own:org/llama"}
    first = service.admin.post("/families/llama/releases", body, {"Idempotency-Key": "pull-once"})
    count = len(hub.asked)
    second = service.admin.post("/families/llama/releases", body, {"Idempotency-Key": "pull-once"})
    assert (first.json(), len(hub.asked)) == (second.json(), count)
    service.run_jobs()


def test_pull_of_a_tag_records_its_commit(service: Service, hub: FakeHub) -> None:
    """A tag is what it means now; the commit is written down."""
    hub.repositories["org/llama"].revisions["v1.0/rc"] = ""
    release = pulled(service, "own:org/llama@v1.0/rc")
    assert (release["state"], release["origin"]["revision"]) == ("ready", "v1.0/rc")
    refused(register(service, "own:org/llama@nope"), 404, "upstream.missing")
    refused(register(service, "own:org/nope"), 404, "upstream.missing")
    refused(register(service, "nobody:org/llama"), 404, "upstream.unknown")
    refused(register(service, "own:org/*"), 422, "upstream.reference")
    refused(register(service, "own:../x"), 422, "upstream.reference")


def test_pull_by_others_than_admins_is_refused(service: Service, hub: FakeHub) -> None:
    """Nobody else makes the registry ask anything."""
    acme = service.caller("acme")
    refused(acme.post("/families/llama/releases", {"name": "x", "directory": "own:org/llama"}), 403, "token.scope")
    assert hub.asked == []


def test_upstream_token_is_sent_to_the_hub_only(service: Service, hub: FakeHub) -> None:
    """Not to where it redirects, also on the same host; nor does it or the CDN's signature come up anywhere."""
    hub.token = TOKEN
    refused(register(service), 404, "upstream.missing")
    known(service, hub, token=TOKEN)
    hub.asked.clear()
    release = pulled(service)
    assert release["state"] == "ready", release["problem"]
    by_server = {server: {a.headers.get("authorization") for a in hub.asked if a.server == server} for server in ("hub", "cdn")}
    assert by_server == {"hub": {f"Bearer {TOKEN}"}, "cdn": {None}}
    for text in (repr(release), service.admin.get("/events", limit=500).text, service.admin.get("/audit").text):
        assert TOKEN not in text
        assert SIGNATURE not in text


def test_interrupted_pull_fetches_only_the_rest(
    service: Service, hub: FakeHub, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut bodies, 503 with Retry-After and closed connections: no byte that arrived is fetched again."""
    monkeypatch.setattr(service.runtime.tools.blobs.__class__, "write_bytes", 4096)
    path, counts = shards(models)[0].name, itertools.count()
    cut = [Fault(cut_after=10_000), Fault(cut_after=0), Fault(429), Fault(cut_after=5)]
    troubles = dict(enumerate([Fault(503, {"Retry-After": "0"}), *cut]))

    def faults(server: str, name: str, _: int) -> Fault | None:
        if server != "cdn" or name != path:
            return None
        return troubles.get(next(counts))

    hub.faults = faults
    release = pulled(service)
    assert release["state"] == "ready", release["problem"]
    asked = [a.headers.get("range", "") for a in hub.fetched(path, "cdn")]
    assert asked[0] == asked[1] == ""
    assert [r.split("-")[0] for r in asked[2:]] == ["bytes=10000", "bytes=10000", "bytes=10000", "bytes=10005"]


def test_pull_from_a_hub_without_ranges_starts_again(service: Service, hub: FakeHub, models: Models) -> None:
    """It sends everything again, and what is there already is passed over."""
    path, counts = shards(models)[0].name, itertools.count()

    def faults(server: str, name: str, _: int) -> Fault | None:
        return Fault(cut_after=10_000) if server == "cdn" and name == path and next(counts) == 0 else None

    hub.faults, hub.ranges = faults, False
    release = pulled(service)
    assert release["state"] == "ready", release["problem"]
    assert len(hub.fetched(path, "cdn")) == 2


@pytest.mark.parametrize(
    ("where", "fault", "code"),
    [
        ("shard", Fault(flip=True), "upstream.changed"),
        ("config.json", Fault(flip=True), "upstream.changed"),
        ("tokenizer.json", Fault(flip=True), "upstream.changed"),
        ("tokenizer.json", Fault(headers={"ETag": '"' + "a" * 40 + '"'}), "upstream.changed"),
        ("shard at hub", Fault(headers={"X-Linked-Etag": '"' + "a" * 64 + '"'}), "upstream.changed"),
        ("shard at hub", Fault(headers={"X-Repo-Commit": "b" * 40}), "upstream.changed"),
        ("shard", Fault(404), "upstream.missing"),
        ("shard at hub", Fault(403), "upstream.denied"),
        ("shard at hub", Fault(418), "upstream.answer"),
        ("shard", Fault(416), "upstream.changed"),
    ],
    ids=str,
)
def test_permanent_failure_rejects_the_release(
    service: Service, hub: FakeHub, models: Models, where: str, fault: Fault, code: str
) -> None:
    """With its code at once, whatever file it is; nothing of it becomes visible."""
    path = shards(models)[0].name if where.startswith("shard") else where
    servers = ("hub",) if where.endswith("at hub") or not where.startswith("shard") else ("cdn",)
    hub.faults = lambda server, name, _: fault if server in servers and name == path else None
    release = pulled(service)
    assert (release["state"], release["problem"]["code"]) == ("rejected", code)
    assert len(hub.fetched(path, servers[0])) <= 2
    if fault.flip and where == "shard":
        digest = hashlib.sha256(shards(models)[0].read_bytes()).hexdigest()
        assert service.runtime.tools.blobs.received(f"pull-{release['id']}", digest) == 0


def test_damaged_bytes_are_fetched_once_more(service: Service, hub: FakeHub, models: Models) -> None:
    path, counts = shards(models)[0].name, itertools.count()
    hub.faults = lambda server, name, _: Fault(flip=True) if (server, name) == ("cdn", path) and next(counts) == 0 else None
    assert pulled(service)["state"] == "ready"
    assert len(hub.fetched(path, "cdn")) == 2


def test_pull_of_a_missing_file_is_rejected_and_retried(service: Service, hub: FakeHub, models: Models) -> None:
    """Rejected by name; retried, it fetches only what is missing."""
    last = shards(models)[-1].name
    hub.repositories["org/llama"].gone.add(last)
    release = pulled(service)
    assert (release["state"], release["problem"]["code"]) == ("rejected", "upstream.missing")
    assert last in release["problem"]["detail"]
    hub.repositories["org/llama"].gone.clear()
    hub.asked.clear()
    again = register(service, name=release["name"])
    assert again.json()["state"] == "ingesting"
    service.run_jobs()
    release = service.admin.get(f"/families/llama/releases/{release['name']}").json()
    assert release["state"] == "ready", release["problem"]
    assert {p.name for p in shards(models) if hub.fetched(p.name)} == {last}


def test_pull_from_an_unreachable_hub_is_given_up(service: Service, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given up after some tries of each of the job's processes, as something that can pass."""
    hub.faults = lambda *_: Fault(503)
    release = pulled(service)
    assert (release["state"], release["problem"]["code"]) == ("rejected", "upstream.unavailable")
    assert len(hub.fetched("config.json")) == download.ATTEMPTS * runner.ATTEMPTS
    known(service, hub, endpoint="http://127.0.0.1:9")
    refused(register(service), 503, "outgoing.unreachable")


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/iam", "http://127.0.0.2:{port}/x", "http://10.0.0.1/x", "https://[::ffff:169.254.169.254]/x",
        "file:///etc/passwd", "http://localhost:{port}/x", "http://0x7f000001:{port}/x", "//169.254.169.254/x",
    ],
)  # fmt: skip
def test_redirect_to_a_private_host_is_refused_unless_allowed(
    service: Service, hub: FakeHub, models: Models, target: str
) -> None:
    """Where the hub redirects is judged as if somebody had named it; only hosts that an admin named are asked."""
    hub.redirect = target.format(port=hub.cdn.rpartition(":")[2])
    release = pulled(service)
    assert (release["state"], release["problem"]["code"]) == ("rejected", "outgoing.refused")
    assert not [a for a in hub.asked if a.server == "cdn"]


def test_endless_redirects_are_refused(service: Service, hub: FakeHub, models: Models) -> None:
    hub.redirect = f"{hub.url}/org/llama/resolve/{hub.repositories['org/llama'].commit}/{shards(models)[0].name}"
    release = pulled(service)
    assert (release["state"], release["problem"]["code"]) == ("rejected", "outgoing.refused")


def test_an_upstream_on_this_machine_is_not_asked_unless_named(service: Service, hub: FakeHub) -> None:
    known(service, hub, private_hosts=[])
    refused(register(service), 403, "outgoing.refused")
    assert hub.asked == []


def test_a_listing_gives_no_bytes_that_are_here(service: Service, hub: FakeHub, models: Models) -> None:
    """A hub may list any digest: of a rival's private file, too. What it sends must be that file."""
    secret = b"private weights of a rival" * 1000
    digest = hashlib.sha256(secret).hexdigest()
    blobs = service.runtime.tools.blobs
    blobs.append("theirs", "0", 0, secret)
    blobs.promote("theirs", "0", digest, "theirs")
    thief = hub.add("org/thief", models.v1)
    thief.files["stolen.model"] = b"x" * len(secret)
    hub.lies["stolen.model"] = digest
    release = pulled(service, "own:org/thief")
    assert (release["state"], release["problem"]["code"]) == ("rejected", "upstream.changed")
    assert len(hub.fetched("stolen.model", "cdn")) == download.WRONG_BYTES_ATTEMPTS
    assert blobs.size(digest) == len(secret)


def unreferenced(service: Service) -> set[str]:
    return {blob.digest for blob in garbage_collection.unreferenced(service.runtime.read, 0)}


def test_bytes_of_a_pull_are_kept_until_the_release_is_rejected(service: Service, hub: FakeHub, models: Models) -> None:
    """However long the rest takes; when the release is rejected it is, and it is fetched again if somebody retries."""
    repository = hub.add("org/wide", models.wide)
    (large,) = [data for path, data in repository.files.items() if path.endswith(".safetensors")]
    digest, blobs = hashlib.sha256(large).hexdigest(), service.runtime.tools.blobs
    repository.gone.add("tokenizer.json")
    registered = register(service, "own:org/wide").json()
    with pytest.raises(KeyboardInterrupt):
        service.run_job(registered["job"], "ingest", do=_interrupted)
    assert blobs.size(digest) == len(large)
    assert digest not in unreferenced(service)
    service.run_jobs()
    assert digest in unreferenced(service)
    assert blobs.delete(digest)
    repository.gone.clear()
    register(service, "own:org/wide", registered["name"])
    service.run_jobs()
    assert service.admin.get(f"/families/llama/releases/{registered['name']}").json()["state"] == "ready"


def _interrupted(message: dict[str, Any], start_report: StartReport) -> dict[str, Any]:
    """The job's work, of which nothing more is heard when it fails: as of a worker that was killed."""
    final = child.outcome(message, start_report)
    if "result" in final:
        return final
    raise KeyboardInterrupt


def line(path: object = "a", size: object = 1, oid: str = "a" * 40, **more: object) -> dict[str, object]:
    return {"type": "file", "path": path, "size": size, "oid": oid, **more}


@pytest.mark.parametrize(
    "entries",
    [
        [line("../config.json")], [line("a//b")], [line("a\\b")], [line("a\nb")], [line("/a")], [line(7)], [line(size=-1)],
        [line(size=True)], [line(size="1")], [line(oid="x")], [line(lfs={"oid": "a" * 40, "size": 1})], ["x"], {"a": 1},
        [line(str(n)) for n in range(10_001)],
    ],
    ids=range(14),
)  # fmt: skip
def test_invalid_listing_is_refused(service: Service, hub: FakeHub, entries: Any) -> None:
    """Paths that lead elsewhere, sizes that are none, digests that are none, endless ones: refused before anything is kept."""
    hub.entries = entries
    refused(register(service), 409, "upstream.answer")


def test_next_page_on_another_host_is_refused(service: Service, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list does not lead to another host, nor round and round, nor on and on."""
    for link in ("<http://127.0.0.2/x>; rel=next", f"<{hub.cdn}/x>; rel=next", "<?again>; rel=next"):
        hub.link = link
        refused(register(service), 409, "upstream.answer")
    monkeypatch.setattr(hub_client, "LISTING_SECONDS", 0.0)
    refused(register(service), 503, "upstream.unavailable")
    assert not [a for a in hub.asked if a.server == "cdn"]

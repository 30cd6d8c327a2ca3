"""Patches that are imported from another hub: what becomes of each, by whose leave, and what is never taken."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import DomainError
from app.domain.names import patch_name_of
from app.domain.principal import Principal
from app.jobs.tasks import download
from app.services.jobs import jobs
from app.services.operations.fsck.check import check
from app.services.operations.fsck.troubles import Trouble
from app.services.patches import imports
from app.services.patches.imports import IMPORT
from tests.support.fake_hub import FakeHub, Fault, Repository, running_hub
from tests.support.fixtures import Models
from tests.support.models import Shelf
from tests.support.registry import Caller, Service, refused
from tests.support.upstreams import known

TOKEN = "hf_sEcReT-of-the-upstream"


@pytest.fixture
def service(fresh: Callable[..., Service], models: Models) -> Service:
    """A registry with release v1 of family llama, which others call upstream/llama."""
    service = fresh()
    service.admin.family("llama")
    assert service.release("llama", "v1", models.v1)["state"] == "ready"
    assert service.admin.post("/families/llama/aliases", {"name": "upstream/Llama"}).status_code == 201
    return service


@pytest.fixture
def hub(service: Service, models: Models, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that publishers may import from as `own`, with a patch as org/Tone--2."""
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.01)
    with running_hub() as hub:
        adapter(hub, "org/Tone--2", models.patch)
        known(service, hub, publishers=True)
        yield hub


@pytest.fixture
def acme(service: Service) -> Caller:
    return service.caller("acme")


def adapter(hub: FakeHub, name: str, directory: Path, base: str = "upstream/llama", **config: Any) -> Repository:
    """A repository with the patch of a directory, as trained on a base of some name."""
    repository = hub.add(name, directory)
    said = json.loads(repository.files["adapter_config.json"]) | {"base_model_name_or_path": base, **config}
    repository.files["adapter_config.json"] = json.dumps(said).encode()
    return repository


def imported(service: Service, caller: Caller, *sources: str, **more: Any) -> list[dict[str, Any]]:
    """Asks for imports, runs their jobs; what became of them, in the order in which they were named."""
    asked = caller.post("/imports", {"sources": sources or ["own:org/Tone--2"], **more})
    assert asked.status_code == 202, asked.text
    service.run_jobs()
    rows = list(reversed(caller.get("/imports", batch=asked.json()["batch"], limit=500).json()["items"]))
    assert len(rows) == asked.json()["count"]
    return rows


def principal(caller: Caller) -> Principal:
    """Whoever holds the caller's token."""
    held = caller.get("/whoami").json()
    return Principal(held["owner"], frozenset(held["scopes"]), held["token"])


def retried(service: Service, caller: Caller, row: dict[str, Any]) -> dict[str, Any]:
    """What `POST /jobs/{job}/retry` does, whose engine does not run here; the import as it then is."""
    with service.runtime.write() as uow:
        assert IMPORT.restart(uow, principal(caller), row["id"]) == row["job"].removesuffix("-1") + "-2"
    service.run_jobs()
    return dict(caller.get(f"/imports/{row['id']}").json())


def recorded(service: Service, subject: str) -> list[str]:
    """Kinds of the events about a subject, oldest first."""
    return [kind for (kind,) in service.rows("SELECT kind FROM events WHERE subject = :subject ORDER BY id", subject=subject)]


def outcome(row: dict[str, Any]) -> tuple[str, str | None]:
    return row["state"], row["problem"] and row["problem"]["code"]


def test_patch_is_imported_as_a_version(service: Service, hub: FakeHub, acme: Caller, models: Models) -> None:
    """It is a version like one that was pushed: its base's name told family and release, and what is no patch was left out."""
    repository = hub.repositories["org/Tone--2"]
    repository.files |= {"training_args.bin": b"pickle", "checkpoint-1/optimizer.bin": b"x", ".gitattributes": b""}
    (row,) = imported(service, acme)
    assert outcome(row) == ("imported", None), row
    assert (row["patch"], row["version"], row["commit"]) == ("acme/tone-2", 1, repository.commit)
    assert row["facts"]["base_model"] == "upstream/llama"
    assert (row["facts"]["family"], row["facts"]["trained_on"]) == ("llama", "v1")
    assert set(row["facts"]["dropped"]) == {"training_args.bin", "checkpoint-1/optimizer.bin"}
    version = acme.get("/patches/acme/tone-2/versions/1").json()
    assert (version["state"], version["trained_on"]) == ("published", "v1")
    assert version["facts"]["rank"] > 0
    for file in version["files"]:
        assert acme.get(f"/patches/acme/tone-2/versions/1/files/{file['path']}").content == repository.files[file["path"]]
    assert not hub.fetched("training_args.bin")
    assert acme.port("acme/tone-2", "v1")["state"] == "ready"
    assert acme.get(f"/imports/{row['id']}").json() == row
    assert recorded(service, row["batch"]) == ["import.requested"]
    assert recorded(service, "acme/tone-2") == ["patch.created", "import.imported"]
    with service.runtime.read() as uow:
        assert [upload for upload, _ in uow.tools.blobs.uploads() if upload.startswith("pull-")] == []


def test_import_of_the_same_commit_is_not_fetched_again(service: Service, hub: FakeHub, acme: Caller) -> None:
    """The same commit is not fetched again; the next one is the next version, unless its files are the same."""
    imported(service, acme)
    hub.asked.clear()
    (row,) = imported(service, acme)
    assert (*outcome(row), row["version"]) == ("present", None, 1)
    assert recorded(service, "acme/tone-2")[-1] == "import.present"
    assert not [a for a in hub.asked if "/resolve/" in a.path]
    hub.repositories["org/Tone--2"].files["eval.json"] = b"{}"
    (row,) = imported(service, acme)
    assert (*outcome(row), row["version"]) == ("present", None, 1)
    hub.repositories["org/Tone--2"].files["README.md"] = b"# better"
    (row,) = imported(service, acme)
    assert (*outcome(row), row["version"]) == ("imported", None, 2)


def test_import_with_an_unknown_base_is_refused(service: Service, hub: FakeHub, acme: Caller, models: Models) -> None:
    """Refused by its name, with the remedy; once an admin said what it is, the same job goes on."""
    adapter(hub, "org/other", models.patch, "mirror/Llama-bnb-4bit")
    (row,) = imported(service, acme, "own:org/other")
    assert outcome(row) == ("refused", "import.base")
    assert "'mirror/Llama-bnb-4bit'" in row["problem"]["detail"]
    assert "portllm family alias add" in row["problem"]["remedy"]
    assert acme.get("/patches/acme/other").status_code == 404
    assert recorded(service, "acme/other") == ["import.refused"]
    assert service.admin.post("/families/llama/aliases", {"name": "mirror/llama-bnb-4bit", "release": "v1"}).status_code == 201
    assert outcome(retried(service, acme, row)) == ("imported", None)


def test_import_for_one_of_several_releases_needs_trained_on(
    service: Service, hub: FakeHub, acme: Caller, models: Models
) -> None:
    """Of several releases nothing tells which; said, or said to be unknown, it is imported: then held until somebody says."""
    assert service.release("llama", "v2", models.v2, parent="v1")["state"] == "ready"
    (row,) = imported(service, acme)
    assert outcome(row) == ("refused", "import.release")
    (row,) = imported(service, acme, trained_on="nope")
    assert outcome(row) == ("refused", "release.unknown")
    (row,) = imported(service, acme, trained_on="v1", name="said")
    assert outcome(row) == ("imported", None)
    (row,) = imported(service, acme, trained_on="unknown")
    assert (*outcome(row), row["facts"]["trained_on"]) == ("imported", None, "unknown")
    assert acme.get("/patches/acme/tone-2/versions/1").json()["trained_on"] == "unknown"
    assert acme.port("acme/tone-2", "v2")["state"] == "held"
    (row,) = imported(service, acme, trained_on="v1")
    assert outcome(row) == ("refused", "version.trained_on")


def test_import_of_an_organisation_has_an_outcome_for_each_patch(
    service: Service, hub: FakeHub, acme: Caller, models: Models
) -> None:
    """Those that hold an adapter; each has an outcome of its own."""
    adapter(hub, "org/good", models.patch)
    adapter(hub, "org/dora", models.patch, use_dora=True)
    adapter(hub, "org/stranger", models.patch, "nobody/knows")
    hub.add("org/base", models.v1)
    hub.add("else/adapter", models.patch)
    pickled = adapter(hub, "org/pickled", models.patch)
    pickled.files["adapter_model.bin"] = pickled.files.pop("adapter_model.safetensors")
    rows = imported(service, acme, "own:org/*")
    assert {row["source"].partition("/")[2]: outcome(row) for row in rows} == {
        "Tone--2@main": ("imported", None), "good@main": ("imported", None),
        "dora@main": ("refused", "adapter.dora"), "stranger@main": ("refused", "import.base"),
        "pickled@main": ("refused", "adapter.pickle"),
    }  # fmt: skip
    assert not hub.fetched("adapter_model.bin")
    assert {row["state"] for row in acme.get("/imports", state="refused").json()["items"]} == {"refused"}
    refused(acme.get("/imports", state="nonsense"), 422, "request.invalid")


def test_import_that_does_not_fit_its_base_is_refused(
    service: Service, hub: FakeHub, acme: Caller, models: Models, shelf: Shelf
) -> None:
    """A patch that cannot be added to its base is refused like one that is pushed."""
    adapter(hub, "org/wide", shelf.patch(models.wide))
    (row,) = imported(service, acme, "own:org/wide")
    assert outcome(row) == ("refused", "port.shape")
    broken = adapter(hub, "org/broken", models.patch)
    weights = bytearray(broken.files["adapter_model.safetensors"])
    weights[-4:] = b"\xff\xff\xff\x7f"
    broken.files["adapter_model.safetensors"] = bytes(weights)
    (row,) = imported(service, acme, "own:org/broken")
    assert outcome(row) == ("refused", "adapter.non_finite")
    assert acme.get("/patches/acme/wide").status_code == acme.get("/patches/acme/broken").status_code == 404


def test_import_of_damaged_bytes_is_refused(service: Service, hub: FakeHub, acme: Caller) -> None:
    hub.faults = lambda server, *_: Fault(flip=True) if server == "cdn" else None
    (row,) = imported(service, acme)
    assert outcome(row) == ("refused", "upstream.changed")
    hub.faults = lambda *_: Fault(503)
    (row,) = imported(service, acme)
    assert outcome(row) == ("refused", "upstream.unavailable")
    (row,) = imported(service, acme, "own:org/nope")
    assert outcome(row) == ("refused", "upstream.missing")


def test_import_into_a_patch_of_another_origin_is_refused(service: Service, hub: FakeHub, acme: Caller, models: Models) -> None:
    """A patch that came from elsewhere gets no version that nobody meant for it."""
    mine = acme.patch("acme", "tone-2")
    acme.publish(mine, models.patch)
    (row,) = imported(service, acme)
    assert outcome(row) == ("refused", "import.taken")
    adapter(hub, "other/tone-2", models.patch)
    (row,) = imported(service, acme, name="mine")
    assert (*outcome(row), row["patch"]) == ("imported", None, "acme/mine")
    (row,) = imported(service, acme, name="tone-2")
    assert (*outcome(row), row["version"]) == ("imported", None, 2)
    (row,) = imported(service, acme, "own:other/tone-2")
    assert outcome(row) == ("refused", "import.taken")


def test_import_without_permission_is_refused_before_the_hub_is_asked(service: Service, hub: FakeHub, acme: Caller) -> None:
    """For one's own owner, from upstreams that are open; nothing is asked of a hub before that is clear."""
    rival, reader = service.caller("rival"), service.caller("acme", "read")
    body = {"sources": ["own:org/*"], "owner": "acme"}
    hub.asked.clear()
    refused(rival.post("/imports", body), 403, "token.scope")
    refused(reader.post("/imports", body), 403, "token.scope")
    known(service, hub)
    refused(acme.post("/imports", body), 403, "upstream.closed")
    refused(acme.post("/imports", {"sources": ["nobody:org/x"]}), 404, "upstream.unknown")
    refused(acme.post("/imports", {"sources": ["org/x"]}), 422, "upstream.reference")
    assert hub.asked == []
    (row,) = imported(service, service.admin, "own:org/Tone--2", owner="acme")
    assert (*outcome(row), row["patch"]) == ("imported", None, "acme/tone-2")
    assert acme.get(f"/imports/{row['id']}").status_code == 200
    refused(rival.get(f"/imports/{row['id']}"), 404, "import.unknown")
    assert rival.get("/imports").json()["items"] == rival.get("/imports", batch=row["batch"]).json()["items"] == []


def test_import_for_a_hidden_family_is_an_unknown_base(service: Service, hub: FakeHub, acme: Caller) -> None:
    """Whoever may not see it is told what is told of a base that nobody knows."""
    assert service.admin("DELETE", "/families/llama/grants/*").status_code == 200
    (row,) = imported(service, acme)
    assert outcome(row) == ("refused", "import.base")


def test_import_beyond_its_limits_is_refused(
    service: Service, hub: FakeHub, acme: Caller, monkeypatch: pytest.MonkeyPatch, models: Models
) -> None:
    """How many at once, one name for one, and the owner's quota."""
    refused(acme.post("/imports", {"sources": ["own:org/a", "own:org/b"], "name": "x"}), 422, "import.name")
    refused(acme.post("/imports", {"sources": []}), 422, "request.invalid")
    refused(acme.post("/imports", {"sources": ["own:org/a"] * 101}), 422, "request.invalid")
    refused(acme.post("/imports", {"sources": ["own:org/a"], "name": "No"}), 422, "request.name")
    refused(acme.post("/imports", {"sources": ["own:org/a"], "trained_on": "No"}), 422, "request.name")
    adapter(hub, "org/second", models.patch)
    monkeypatch.setattr(imports, "MAX_AT_ONCE", 1)
    refused(acme.post("/imports", {"sources": ["own:org/*"]}), 413, "import.too_many")
    monkeypatch.undo()
    assert service.admin("PUT", "/owners/acme/quota", json={"bytes": 10}).status_code == 200
    (row,) = imported(service, acme)
    assert outcome(row) == ("refused", "quota.exceeded")
    assert not hub.fetched("adapter_model.safetensors")
    assert service.rows("SELECT count(*) FROM patches WHERE owner = 'acme'") == [(0,)]


def test_cancelled_import_can_be_started_again(service: Service, hub: FakeHub, acme: Caller) -> None:
    asked = acme.post("/imports", {"sources": ["own:org/Tone--2"]}).json()
    (row,) = acme.get("/imports", batch=asked["batch"]).json()["items"]
    assert acme.post(f"/jobs/{row['job']}/cancel").status_code == 202
    assert outcome(acme.get(f"/imports/{row['id']}").json()) == ("cancelled", "job.cancelled")
    assert recorded(service, "acme/tone-2") == ["import.cancelled"]
    assert outcome(retried(service, acme, row)) == ("imported", None)
    with service.runtime.write() as uow, pytest.raises(DomainError) as raised:
        IMPORT.restart(uow, principal(acme), row["id"])
    assert raised.value.code == "state.move"


def test_import_whose_job_is_gone_is_refused(service: Service, hub: FakeHub, acme: Caller) -> None:
    """A check finds it, and a running service says it is refused."""
    asked = acme.post("/imports", {"sources": ["own:org/Tone--2"]}).json()
    (row,) = acme.get("/imports", batch=asked["batch"]).json()["items"]
    service.runtime.tools.jobs.forget(row["job"])
    troubles = [found for found in check(service.runtime, quick=True, tell=lambda *_: None) if isinstance(found, Trouble)]
    assert [(found.code, found.subject) for found in troubles] == [("import.stuck", f"{row['id']} (acme/tone-2)")]
    assert jobs.reconcile(service.runtime.read, service.runtime.write, set()) == 1
    assert outcome(acme.get(f"/imports/{row['id']}").json()) == ("refused", "job.crashed")


def test_import_of_purged_files_is_refused(service: Service, hub: FakeHub, acme: Caller) -> None:
    """Nobody brings erased files back by importing them again."""
    imported(service, acme)
    assert service.admin.post("/patches/acme/tone-2/versions/1/purge", {"reason": "erasure"}).status_code in (200, 202)
    (row,) = imported(service, acme)
    assert outcome(row) == ("refused", "version.purged")


def test_upstream_token_of_an_import_is_shown_nowhere(service: Service, hub: FakeHub, acme: Caller) -> None:
    """It opens what it may read, and is in no row, event or answer."""
    hub.token = TOKEN
    known(service, hub, publishers=True, token=TOKEN)
    (row,) = imported(service, acme)
    assert outcome(row) == ("imported", None)
    assert {a.headers.get("authorization") for a in hub.asked if a.server == "cdn"} == {None}
    for table in ("imports", "events", "patch_versions", "upstreams"):
        assert TOKEN not in repr(service.rows(f"SELECT * FROM {table}")), table


@pytest.mark.parametrize(
    ("repository", "name"),
    [
        ("org/Tone", "tone"),
        ("org/Tone--2", "tone-2"),
        ("gpt2", "gpt2"),
        ("o/a..b", "a.b"),
        ("o/_x_", "x"),
        ("o/A_B.c-d", "a_b.c-d"),
    ],
)
def test_names(repository: str, name: str) -> None:
    assert patch_name_of(repository) == name


def test_names_that_cannot_be(service: Service, hub: FakeHub, acme: Caller) -> None:
    refused(acme.post("/imports", {"sources": [f"own:org/{'x' * 80}"]}), 422, "request.name")
    rows = imported(service, acme, "own:org/Tone--2", f"own:org/{'x' * 80}", "own:org/x.git")
    assert [outcome(row) for row in rows] == [("imported", None), ("refused", "request.name"), ("refused", "request.name")]
    refused(acme.get("/imports/nope"), 404, "import.unknown")


def test_import_by_a_revoked_token_publishes_nothing(service: Service, hub: FakeHub) -> None:
    """What it had asked for is not published: a revoked token does nothing any more."""
    known(service, hub, publishers=True)
    acme = service.caller("acme")
    asked = acme.post("/imports", {"sources": ["own:org/Tone--2"]})
    assert asked.status_code == 202, asked.text
    assert service.admin("DELETE", f"/tokens/{acme.get('/whoami').json()['token']}").status_code in (200, 204)
    service.run_jobs()
    (row,) = service.admin.get("/imports", batch=asked.json()["batch"]).json()["items"]
    assert outcome(row) == ("refused", "import.token")
    assert service.caller("acme").get("/patches/acme/tone-2").status_code == 404

"""The Hub protocol: revisions and commits, what they hold, and what happens to them."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from app.db.commits import Commit
from tests.support.files import factors, write_patch
from tests.support.fixtures import Models, World
from tests.support.fsck import altered_row, fsck_report
from tests.support.hub_requests import Hub, refused_by_hub
from tests.support.registry import Caller, Service, unique
from tests.support.uploads import with_card


def commit_of(hub: Hub, repository: str, revision: str) -> str:
    """The formula of the design, from the answers alone."""
    paths = [sibling["rfilename"] for sibling in hub.info(repository, revision)["siblings"]]
    pairs = [[path, hub.head(f"/{repository}/resolve/{revision}/{path}").headers["ETag"].strip('"')] for path in sorted(paths)]
    return hashlib.sha256(json.dumps(pairs, separators=(",", ":")).encode()).hexdigest()[:40]


@pytest.fixture
def hub(world: World) -> Hub:
    return Hub(world.acme)


def test_commit_ids(hub: Hub) -> None:
    """40 hex digits of a sha256 over sorted paths and ETags; each leads back to the same files."""
    for repository, revision in (
        ("base/llama", "v1"), ("acme/tone", "1"), ("acme/tone", "1@v2"), ("acme/tone.merged", "v2@1"),
    ):  # fmt: skip
        sha = hub.sha(repository, revision)
        assert sha == commit_of(hub, repository, revision)
        assert hub.sha(repository, sha) == sha
        assert hub.tree(repository, sha) == hub.tree(repository, revision)


def test_names_of_the_same_thing(hub: Hub) -> None:
    assert hub.sha("acme/tone.merged") == hub.sha("acme/tone.merged", "v2") == hub.sha("acme/tone.merged", "v2@1")
    assert hub.sha("acme/tone") == hub.sha("acme/tone", "1")
    # transformers asks a base for the revision that it was asked for of the adapter
    assert hub.sha("base/llama", "1@v2") == hub.sha("base/llama", "v2")


def test_a_commit_belongs_to_its_repository(hub: Hub) -> None:
    """The merged model's commit is none of the patch's, nor the other way round."""
    merged, patch, base = hub.sha("acme/tone.merged"), hub.sha("acme/tone"), hub.sha("base/llama", "v1")
    for repository, sha in (("acme/tone", merged), ("acme/tone.merged", patch), ("acme/tone", base), ("base/llama", merged)):
        refused_by_hub(hub.get(f"/api/models/{repository}/revision/{sha}"), 404, "RevisionNotFound", "hub.revision")


@pytest.fixture
def place(fresh: Callable[..., Service], models: Models, tmp_path: Path) -> tuple[Service, Caller, Hub]:
    """A registry of its own: llama with v1 (which has a README) and v2, acme/tone with version 1, ported to v2."""
    return furnished(fresh(), models, tmp_path)


@pytest.fixture(scope="module")
def lasting(
    registries: Callable[..., Service], models: Models, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Caller, Hub]]:
    """The same for tests that make patches of their own, and change nothing else."""
    with registries().running() as service:
        yield furnished(service, models, tmp_path_factory.mktemp("lasting"))


def furnished(service: Service, models: Models, root: Path) -> tuple[Service, Caller, Hub]:
    service.admin.family("llama")
    v1 = shutil.copytree(models.v1, service.place / "v1")
    (v1 / "README.md").write_text("---\nlicense: llama3\nlanguage: [en]\n---\n# Llama\n")
    service.release("llama", "v1", v1)
    service.release("llama", "v2", models.v2, parent="v1")
    acme = service.caller("acme")
    acme.publish(acme.patch("acme", "tone"), with_card(models.patch, root / "patch", "---\nlicense: apache-2.0\n---\nmine\n"))
    acme.port("acme/tone", "v1")
    acme.port("acme/tone", "v2")
    return service, acme, Hub(acme)


def test_the_newest_version_moves_names_but_no_commits(
    place: tuple[Service, Caller, Hub], models: Models, tmp_path: Path
) -> None:
    _, acme, hub = place
    first = {name: hub.sha("acme/tone.merged", name) for name in ("main", "v2", "v2@1")}
    acme.publish("acme/tone", with_card(models.patch, tmp_path / "second", "second"))
    # `RELEASE` is the main version on it, and nobody ported that yet; what is pinned goes on; main is the newest ready port.
    refused_by_hub(hub.get("/api/models/acme/tone.merged/revision/v2"), 404, "RevisionNotFound", "port.none")
    assert hub.sha("acme/tone.merged", "v2@1") == first["v2@1"]
    assert hub.sha("acme/tone.merged") == first["main"]
    acme.port("acme/tone", "v2")
    second = hub.sha("acme/tone.merged", "v2")
    assert second == hub.sha("acme/tone.merged", "v2@2") == hub.sha("acme/tone.merged")
    assert second not in first.values()
    assert hub.sha("acme/tone.merged", first["v2"]) == first["v2"]
    refs = hub.get("/api/models/acme/tone.merged/refs").json()
    assert {ref["name"]: ref["targetCommit"] for ref in refs["branches"]} == {"main": second, "v2": second}
    assert {ref["name"] for ref in refs["tags"]} == {"v2@2", "v2@1", "v1@1"}
    history = hub.get("/api/models/acme/tone.merged/commits/main").json()
    assert [line["id"] for line in history] == [second, first["v2@1"]]
    assert [line["title"] for line in history] == ["Version 2 on v2", "Version 1 on v2"]


def test_aliases(place: tuple[Service, Caller, Hub]) -> None:
    _, acme, hub = place
    acme("PUT", "/patches/acme/tone/aliases/prod", json={"version": "1"})
    assert hub.sha("acme/tone", "prod") == hub.sha("acme/tone", "1")
    assert "prod" in [ref["name"] for ref in hub.get("/api/models/acme/tone/refs").json()["branches"]]
    refused_by_hub(hub.get("/api/models/acme/tone/revision/nope"), 404, "RevisionNotFound", "alias.unknown")


def test_only_plain_addition_is_shown(place: tuple[Service, Caller, Hub], models: Models, tmp_path: Path) -> None:
    """A port with another recipe is read by its id; reading makes none."""
    _, acme, hub = place
    acme.publish(acme.patch("acme", "other"), with_card(models.patch, tmp_path / "other", "other"))
    acme.port("acme/other", "v2", recipe={"dtype": "bfloat16"})
    refused_by_hub(hub.get("/api/models/acme/other.merged/revision/v2"), 404, "RevisionNotFound", "port.none")
    refused_by_hub(hub.get("/api/models/acme/other.merged"), 404, "RevisionNotFound", "hub.revision")
    assert "acme/other.merged" not in [model["id"] for model in hub.get("/api/models").json()]
    assert len(acme.get("/ports", patch="acme/other").json()["items"]) == 1
    assert acme.port("acme/other", "v2")["state"] == "ready"
    assert hub.sha("acme/other.merged", "v2")


def test_yanked_is_hidden_and_still_there(place: tuple[Service, Caller, Hub], models: Models, tmp_path: Path) -> None:
    """Names move on; numbers and commits stay."""
    service, acme, hub = place
    old = hub.sha("acme/tone"), hub.sha("acme/tone.merged"), hub.sha("base/llama")
    acme.publish("acme/tone", with_card(models.patch, tmp_path / "second", "second"))
    acme.post("/patches/acme/tone/versions/2/yank", {"reason": "worse"})
    assert hub.sha("acme/tone") == old[0]
    assert hub.sha("acme/tone", "2") != old[0]
    service.admin.post("/families/llama/releases/v2/yank", {"reason": "broken"})
    assert hub.sha("base/llama") == hub.sha("base/llama", "v1") != old[2]
    assert hub.sha("base/llama", "v2") == hub.sha("base/llama", old[2]) == old[2]
    assert hub.sha("acme/tone.merged") == hub.sha("acme/tone.merged", "v1")
    assert hub.sha("acme/tone.merged", "v2") == hub.sha("acme/tone.merged", old[1]) == old[1]
    acme("PUT", "/patches/acme/tone/aliases/prod", json={"version": "1"})
    acme.post("/patches/acme/tone/versions/1/yank", {"reason": "old"})
    refused_by_hub(hub.get("/api/models/acme/tone/revision/prod"), 410, "RevisionNotFound", "version.yanked")


def test_retired_is_not_handed_out(place: tuple[Service, Caller, Hub]) -> None:
    """Not by its commit either; made again, the port is another one, with a card of its own."""
    _, acme, hub = place
    before, adapter = hub.sha("acme/tone.merged", "v2"), hub.sha("acme/tone", "1@v2")
    port = next(p for p in acme.get("/ports", patch="acme/tone").json()["items"] if p["release"] == "v2")
    assert acme.post(f"/ports/{port['id']}/retire").status_code == 200
    refused_by_hub(hub.get(f"/api/models/acme/tone.merged/revision/{before}"), 404, "RevisionNotFound", "hub.revision")
    refused_by_hub(hub.file("acme/tone.merged", "v2@1", "config.json"), 404, "RevisionNotFound", "port.none")
    refused_by_hub(hub.file("acme/tone", adapter, "adapter_config.json"), 404, "RevisionNotFound", "hub.revision")
    acme.port("acme/tone", "v2")
    assert hub.sha("acme/tone.merged", "v2")


def test_purged_leaves_nothing(place: tuple[Service, Caller, Hub]) -> None:
    """Neither bytes nor what was written down about them."""
    service, _, hub = place
    shas = {name: hub.sha(name) for name in ("acme/tone", "acme/tone.merged")}
    operator = service.caller("acme", "read", "publish", "operate")
    assert operator.post("/patches/acme/tone/versions/1/purge", {"reason": "erasure"}).status_code in (200, 202)
    refused_by_hub(hub.get("/api/models/acme/tone/revision/1"), 410, "RevisionNotFound", "version.purged")
    for name, sha in shas.items():
        refused_by_hub(hub.get(f"/api/models/{name}/revision/{sha}"), 404, "RevisionNotFound", "hub.revision")
    left = service.rows("SELECT kind FROM commits")
    assert {kind for (kind,) in left} <= {"base"}


def test_a_grant_that_is_withdrawn(place: tuple[Service, Caller, Hub]) -> None:
    """Closes what was merged with the family, and its bases; the owner's own patch stays its own."""
    service, _, hub = place
    sha = hub.sha("acme/tone.merged")
    assert service.admin("DELETE", "/families/llama/grants/*").status_code in (200, 204)
    refused_by_hub(hub.get("/api/models/acme/tone.merged"), 404, "RepoNotFound", "family.unknown")
    refused_by_hub(hub.file("acme/tone.merged", sha, "config.json"), 404, "RepoNotFound", "family.unknown")
    refused_by_hub(hub.get("/api/models/base/llama"), 404, "RepoNotFound", "family.unknown")
    assert hub.sha("acme/tone")
    assert [model["id"] for model in hub.get("/api/models").json()] == ["acme/tone"]


def test_card_of_a_merged_model(place: tuple[Service, Caller, Hub]) -> None:
    """Lineage, digests, recipe, findings, fidelity and both licences, with front matter that YAML reads."""
    _, acme, hub = place
    text = hub.file("acme/tone.merged", "v1", "README.md").text
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["base_model"] == "base/llama"
    assert front["library_name"] == "transformers"
    assert (front["license"], front["license_name"]) == ("other", "base: llama3; patch: apache-2.0")
    port = next(p for p in acme.get("/ports", patch="acme/tone").json()["items"] if p["release"] == "v1")
    version = acme.get("/patches/acme/tone/versions/1").json()
    assert port["fingerprint"] in text
    assert version["digest"] in text
    assert "100.0 % of the patch survives" in text
    assert "It replaces the release's own README.md, which is in `base/llama` at `v1`." in text
    assert hub.file("base/llama", "v1", "README.md").text.endswith("# Llama\n")
    assert hub.file("acme/tone", "1", "README.md").text.endswith("mine\n")
    found = hub.file("acme/tone.merged", "v2", "README.md").text
    assert "lineage.measured" in found
    assert yaml.safe_load(found.split("---\n")[1])["license"] == "apache-2.0"
    info = hub.info("acme/tone.merged", "v1")
    assert info["cardData"]["license"] == "other"
    assert {"base_model:base/llama", "transformers", "license:other"} <= set(info["tags"])
    assert "license:llama3" in hub.info("base/llama", "v1")["tags"]


def test_the_card_stays_as_it_was(place: tuple[Service, Caller, Hub]) -> None:
    """A figure that is measured better later changes no commit."""
    service, acme, hub = place
    before, card = hub.sha("acme/tone.merged", "v2"), hub.file("acme/tone.merged", "v2", "README.md").text
    port = next(p for p in acme.get("/ports", patch="acme/tone").json()["items"] if p["release"] == "v2")
    acme.post(f"/ports/{port['id']}/digest")
    service.run_jobs()
    assert acme.get(f"/ports/{port['id']}").json()["fidelity"]["overall"]
    assert (hub.sha("acme/tone.merged", "v2"), hub.file("acme/tone.merged", "v2", "README.md").text) == (before, card)
    weights = [entry for entry in hub.tree("acme/tone.merged", "v2") if entry["path"].endswith(".safetensors")]
    for entry in weights:  # whose true digests are known now: clients verify them
        content = hub.file("acme/tone.merged", "v2", entry["path"]).content
        assert entry["lfs"]["oid"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("front", [
    "license: [a, b]", "license: *x", "a: &x [1]\nlicense: *x", "license: !!python/object:os.system x", "license: {a: b}",
    "[" * 9000, "license: null", "license: 1.0", "? [a]\n: b", 'license: "a\\u202eb"', "license: x\n---\nnot: this",
    "license: \u0000", "<<: {}", "license: " + "1" * 6000, "license: >\n" + " a\n" * 3000, "- a", "license: 2001-99-99",
    "license: '| x | `y` <b>'", "license: !!int ''", "license: !!float ''", "license: !!bool x", "license: !!timestamp x",
    "license: !!binary \u00e9", "license: !!omap x", "license: !!int '0x'", "license: 0b2", "<<: x", 'license: "\\UFFFFFFFF"',
    "%YAML 1." + "9" * 5000 + "\n---\nlicense: x",
])  # fmt: skip
def test_front_matter_of_strangers(lasting: tuple[Service, Caller, Hub], models: Models, tmp_path: Path, front: str) -> None:
    """Whatever a README says, the card is a card, and its front matter a mapping of texts."""
    _, acme, hub = lasting
    name = acme.patch("acme", unique("odd"))
    acme.publish(name, with_card(models.patch, tmp_path / "odd", f"---\n{front}\n---\nbody\n"))
    acme.port(name, "v2")
    text = hub.file(f"{name}.merged", "v2", "README.md").text
    loaded = yaml.safe_load(text.split("---\n")[1])
    assert loaded["base_model"] == "base/llama"
    assert isinstance(loaded.get("license", ""), str)
    assert all(len(line) < 2000 for line in text.splitlines())
    assert hub.info(name)["sha"]


def test_front_matter_of_a_release_with_tags_leaves_its_repositories_readable(
    fresh: Callable[..., Service], models: Models
) -> None:
    """Whoever may read the release, and the models merged with it, is not locked out by its README.md."""
    service = fresh()
    release = shutil.copytree(models.v1, service.place / "tagged")
    (release / "README.md").write_text("---\nlicense: !!timestamp x\ntags: [!!int 'a', !!bool b]\n---\nbody\n")
    service.admin.family("llama")
    service.release("llama", "v1", release)
    acme = service.caller("acme")
    acme.publish(acme.patch("acme", "tone"), models.patch)
    port = acme.port("acme/tone", "v1")
    hub = Hub(acme)
    assert hub.info("base/llama")["cardData"] == {"license": "x", "tags": ["a", "b"]}
    assert hub.info("acme/tone.merged")["cardData"]["license"] == "x"
    assert hub.file("base/llama", "v1", "config.json").status_code == 200
    assert acme.get(f"/ports/{port['id']}/serving.json").status_code == 200


@pytest.mark.parametrize("content", ["---\nlicense: !!bool x\n---\n", "---\nlicense: !!int 'y'\n---\n"])
def test_validate_yaml_of_tagged_scalars_says_that_they_are_text(place: tuple[Service, Caller, Hub], content: str) -> None:
    _, acme, _ = place
    answer = acme("POST", "/api/validate-yaml", whole=True, json={"content": content})
    assert (answer.status_code, answer.json()) == (200, {"errors": [], "warnings": []})


def test_a_patch_without_a_card(lasting: tuple[Service, Caller, Hub], models: Models, tmp_path: Path) -> None:
    """Gets one; the bytes that were published are all it has beside that."""
    _, acme, hub = lasting
    bare = shutil.copytree(models.patch, tmp_path / "bare")
    (bare / "README.md").unlink(missing_ok=True)
    acme.publish(acme.patch("acme", "bare"), bare)
    front = yaml.safe_load(hub.file("acme/bare", "1", "README.md").text.split("---\n")[1])
    assert (front["base_model"], front["library_name"]) == ("base/llama", "peft")
    files = {entry["path"] for entry in hub.tree("acme/bare")}
    assert files == {"README.md"} | {path.name for path in bare.iterdir()}


@pytest.mark.parametrize("target", [
    "x\n\n<script>alert(1)</script>", "x`](javascript:alert(1))", "x | y | z", "\x1b[31mred", "a\u202eb", "# x\r\n# y",
])  # fmt: skip
def test_names_of_tensors_are_text_in_a_card(lasting: tuple[Service, Caller, Hub], tmp_path: Path, target: str) -> None:
    """A patch that was trained on nobody knows what may name any module; the card shows it as code in one cell."""
    _, acme, hub = lasting
    directory = write_patch(tmp_path / "odd", {f"model.{target}": factors((6, 8), 2, "F32", 1)}, target_modules=[target])
    (directory / "README.md").unlink(missing_ok=True)
    name = acme.patch("acme", unique("named"))
    acme.publish(name, directory, trained_on="unknown")
    text = hub.file(name, "1", "README.md").text
    (row,) = [line for line in text.split("\n") if line.startswith("| modules |")]
    assert re.fullmatch(r"\| modules \| `[^`|]*` \|", row)
    assert all(line.isprintable() for line in text.split("\n"))
    assert not [line for line in text.split("\n") if line.lstrip().startswith(("<script", "# y"))]


def test_nothing_published_yet(place: tuple[Service, Caller, Hub]) -> None:
    """A repository that can be pushed to: its `main` is a commit with nothing in it."""
    _, acme, hub = place
    acme.patch("acme", "empty")
    info = hub.info("acme/empty")
    assert (info["siblings"], len(info["sha"])) == ([], 40)
    assert hub.sha("acme/empty", info["sha"]) == info["sha"]
    assert hub.tree("acme/empty") == []
    refused_by_hub(hub.file("acme/empty", "main", "README.md"), 404, "EntryNotFound", "hub.entry")
    assert hub.get("/api/models/acme/empty/refs").json()["branches"][0]["targetCommit"] == info["sha"]
    assert len(hub.get("/api/models/acme/empty/commits/main").json()) == 1


def test_fsck_knows_commits(place: tuple[Service, Caller, Hub]) -> None:
    """A commit that is not that of its files, and a text that is not the one it lists, are found."""
    service, _, hub = place
    sha = hub.sha("acme/tone.merged", "v2")
    assert fsck_report(service).clean
    ((ident,),) = service.rows("SELECT id FROM commits WHERE name = :name AND kind = 'merged'", name=sha)
    with altered_row(service, Commit, ident, name="0" * 40):
        assert dict(fsck_report(service).counts) == {"commit.files": 1}
    with altered_row(service, Commit, ident, texts={"README.md": "another"}):
        report = fsck_report(service)
    assert [trouble.detail for trouble in report.troubles] == ["The text of README.md is not the one that it lists."]
    assert fsck_report(service).clean

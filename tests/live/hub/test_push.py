"""Stock clients push patches: the huggingface_hub, peft and transformers that are installed, with an endpoint and a token."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub_pushes import TRAINERS, Registry, ready, registry, spoiled, trained
from tests.support.live_fixtures import models

__all__ = ["models"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("push"), models) as running:
        yield running


def test_a_folder_as_the_trainer_leaves_it(hub: Registry, tmp_path: Path) -> None:
    """One version, of the files that belong to it, byte for byte; the others are named to the client and to the registry."""
    name, folder = hub.name(), trained(hub.models, tmp_path / "out")
    ran = hub.python(f"""
tell(str(api.create_repo({name!r}, private=True)))
tell(api.upload_folder(repo_id={name!r}, folder_path={str(folder)!r}, commit_message="as trained").oid)
tell(api.model_info({name!r}).sha)
tell(sorted(api.list_repo_files({name!r})))
tell(api.hf_hub_download({name!r}, "adapter_model.safetensors"))
""").good()
    url, oid, sha, files, weights = ran.told
    assert url == f"{hub.service.url}/{name}"
    assert oid == sha
    assert files == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert Path(weights).read_bytes() == (folder / "adapter_model.safetensors").read_bytes()
    assert "Left out, not part of a patch: checkpoint-7/" in ran.errors
    (version,) = hub.versions(name)
    assert (version["number"], version["state"], version["trained_on"]) == (1, "published", "v1")
    assert version["dropped"] == sorted(TRAINERS)


def test_pushed_twice_it_is_one_version(hub: Registry, tmp_path: Path) -> None:
    """A client that sees no difference makes no commit; one that makes it all the same gets the version that is there."""
    name, folder = hub.name(), trained(hub.models, tmp_path / "out")
    first, second, third = hub.python(f"""
api.create_repo({name!r})
push = lambda: api.upload_folder(repo_id={name!r}, folder_path={str(folder)!r}).oid
tell(push()); tell(push())
add = CommitOperationAdd("adapter_config.json", {str(folder / "adapter_config.json")!r})
tell(api.create_commit({name!r}, [add], commit_message="again").oid)
""").told
    assert first == second == third
    assert len(hub.versions(name)) == 1


def test_push_to_hub(hub: Registry, tmp_path: Path) -> None:
    """An adapter and then its tokenizer, with nothing announced before: the second commit is the next version."""
    name = hub.name()
    hub.python(f"""
from transformers import AutoModelForCausalLM, AutoTokenizer
from peft import PeftModel
base = AutoModelForCausalLM.from_pretrained({str(hub.models / "v1")!r})
PeftModel.from_pretrained(base, {str(hub.models / "patch")!r}).push_to_hub({name!r})
AutoTokenizer.from_pretrained({str(hub.models / "v1")!r}).push_to_hub({name!r})
""").good()
    newest, first = hub.versions(name)
    assert first["trained_on"] == newest["trained_on"] == "v1"
    paths = {file["path"] for file in newest["files"]}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md"} <= paths
    weights = [{f["path"]: f["sha256"] for f in v["files"]}["adapter_model.safetensors"] for v in (first, newest)]
    assert weights[0] == weights[1]


def test_hf_upload_and_a_load_of_the_merged_model(hub: Registry, tmp_path: Path) -> None:
    """By the command line; then ported, and loaded merged by the same stock client."""
    name, folder = hub.name(), trained(hub.models, tmp_path / "out")
    hub.hf("upload", name, folder).good()
    hub.hf("upload", name, folder / "README.md", "README.md").good()
    assert len(hub.versions(name)) == 1
    port = hub.portllm("port", name, "--to", "v1")
    assert port["state"] == "ready", port
    (shape,) = hub.python(f"""
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("{name}.merged", revision="v1")
tell(list(model.model.embed_tokens.weight.shape))
""").told
    assert shape[1] > 0


def test_lfs_in_place_of_xet(hub: Registry, tmp_path: Path) -> None:
    """What clients do that have no Xet, or are told not to use it."""
    name, folder = hub.name(), trained(hub.models, tmp_path / "out")
    code = f"""
api.create_repo({name!r})
tell(api.upload_folder(repo_id={name!r}, folder_path={str(folder)!r}).oid)
tell(api.hf_hub_download({name!r}, "adapter_model.safetensors"))
"""
    _, weights = hub.python(code, HF_HUB_DISABLE_XET="1").told
    assert Path(weights).read_bytes() == (folder / "adapter_model.safetensors").read_bytes()
    assert len(hub.versions(name)) == 1


def test_tags(hub: Registry, tmp_path: Path) -> None:
    """A tag pins a version, whatever is pushed later; it is made once, and can be taken away."""
    name, folder = hub.name(), trained(hub.models, tmp_path / "out")
    told = hub.python(f"""
api.create_repo({name!r})
folder = Path({str(folder)!r})
tell(api.upload_folder(repo_id={name!r}, folder_path=folder).oid)
api.create_tag({name!r}, tag="before")
(folder / "README.md").write_text("# other")
tell(api.upload_folder(repo_id={name!r}, folder_path=folder).oid)
tell(api.model_info({name!r}, revision="before").sha)
api.create_tag({name!r}, tag="one", revision="1")
said(api.create_tag, {name!r}, tag="before")
api.create_tag({name!r}, tag="before", exist_ok=True)
said(api.create_tag, {name!r}, tag="main")
said(api.create_tag, {name!r}, tag="x", revision="nothing")
api.delete_tag({name!r}, tag="before")
said(api.delete_tag, {name!r}, tag="before")
said(api.create_branch, {name!r}, branch="side")
said(api.upload_file, repo_id={name!r}, path_or_fileobj=b"x", path_in_repo="README.md", revision="side")
tell(sorted(ref.name for ref in api.list_repo_refs({name!r}).branches))
""").told
    first, second, pinned, taken, reserved, nothing, gone, branch, side, names = told
    assert first == pinned != second
    assert (taken["status"], taken["code"]) == (409, "push.tag_exists")
    assert reserved["code"] == "request.name"
    assert nothing["code"] == gone["code"] == "alias.unknown"
    assert branch["code"] == side["code"] == "push.revision"
    assert "Push to main" in branch["message"]
    assert names == ["main", "one"]


def test_an_invalid_patch_is_refused_with_its_reason(hub: Registry, tmp_path: Path) -> None:
    """In the client's own error, whichever way it is invalid; nothing of it stays, and the right one can be pushed then."""
    name, folder = hub.name(), spoiled(trained(hub.models, tmp_path / "out"))
    good, before = trained(hub.models, tmp_path / "good"), hub.used()["bytes"]
    dora = trained(hub.models, tmp_path / "dora")
    config = json.loads((dora / "adapter_config.json").read_text())
    (dora / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    pickled = tmp_path / "pickled"
    shutil.copytree(good, pickled)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    wrong, unsupported, pickle = hub.python(f"""
api.create_repo({name!r})
for folder in ({str(folder)!r}, {str(dora)!r}, {str(pickled)!r}):
    said(api.upload_folder, repo_id={name!r}, folder_path=folder)
""").told
    assert wrong["status"] == unsupported["status"] == pickle["status"] == 422
    assert wrong["code"].startswith(("adapter.", "port."))
    assert "has lora_A but no lora_B" in wrong["message"]
    assert unsupported["code"] == "adapter.dora"
    assert "train with use_dora=False" in unsupported["message"]
    assert pickle["code"] == "adapter.pickle"
    assert hub.versions(name) == []
    hub.python(f"api.upload_folder(repo_id={name!r}, folder_path={str(good)!r})").good()
    (version,) = hub.versions(name)
    assert hub.used()["bytes"] - before < 3 * version["total_bytes"]


def test_a_base_that_nobody_knows(hub: Registry, tmp_path: Path) -> None:
    """Kept as a draft, with the words that finish it; then those words."""
    name, folder = hub.name(), trained(hub.models, tmp_path / "out", base="some-org/some-base")
    code = f"""
api.create_repo({name!r}, exist_ok=True)
said(api.upload_folder, repo_id={name!r}, folder_path={str(folder)!r})
"""
    (refused,) = hub.python(code).told
    assert (refused["status"], refused["code"]) == (409, "push.base_unknown")
    assert "some-org/some-base" in refused["message"]
    assert f"portllm patch publish {name} --family FAMILY --trained-on RELEASE" in refused["message"]
    assert hub.versions(name) == []
    wrong = hub.portllm("patch", "publish", name, "--family", "llama", "--trained-on", "v9")
    assert wrong["error"]["code"] == "release.unknown"
    done = hub.portllm("patch", "publish", name, "--family", "llama", "--trained-on", "v1")
    assert (done["number"], done["trained_on"]) == (1, "v1")
    again = hub.portllm("patch", "publish", name, "--family", "llama", "--trained-on", "v1")
    assert again["error"]["code"] == "push.none"
    assert hub.python(code).told[0]["status"] == 200
    assert len(hub.versions(name)) == 1


def test_a_base_that_is_named_later(hub: Registry, tmp_path: Path) -> None:
    """The same push again goes through, in upper case too, and by the name of our own family."""
    name, folder = hub.name(), trained(hub.models, tmp_path / "out", base="Some-Org/Renamed", card="named later")
    code = f"api.create_repo({name!r}, exist_ok=True)\nsaid(api.upload_folder, repo_id={name!r}, folder_path={str(folder)!r})"
    assert hub.python(code).told[0]["code"] == "push.base_unknown"
    with hub.service.client() as admin:
        assert admin.post("/families/llama/aliases", json={"name": "some-org/renamed", "release": "v1"}).status_code == 201
    assert hub.python(code).told[0]["status"] == 200
    assert hub.versions(name)[0]["trained_on"] == "v1"
    other, ours = hub.name(), trained(hub.models, tmp_path / "ours", base="base/llama", revision="v1", card="ours")
    hub.python(f"api.create_repo({other!r})\napi.upload_folder(repo_id={other!r}, folder_path={str(ours)!r})").good()
    assert hub.versions(other)[0]["trained_on"] == "v1"


def test_the_patchs_own_release(hub: Registry, tmp_path: Path) -> None:
    """What a push does not tell, the patch can: `portllm patch create --trained-on`."""
    name, folder = hub.name(), trained(hub.models, tmp_path / "out", base="./relative/output", card="own")
    made = hub.portllm("patch", "create", name, "--family", "llama")
    assert made["trained_on"] is None
    code = f"said(api.upload_folder, repo_id={name!r}, folder_path={str(folder)!r})"
    (refused,) = hub.python(code).told
    assert refused["code"] == "push.release_unknown"
    assert f"portllm patch publish {name} --trained-on RELEASE" in refused["message"]
    assert hub.portllm("patch", "set", name, "--trained-on", "v9")["error"]["code"] == "release.unknown"
    assert hub.portllm("patch", "set", name, "--trained-on", "v1")["trained_on"] == "v1"
    assert hub.python(code).told[0]["status"] == 200
    assert hub.versions(name)[0]["trained_on"] == "v1"


def test_several_commits_make_one_version(hub: Registry, tmp_path: Path) -> None:
    """Nothing is published before configuration and weights are there."""
    name, folder = hub.name(), trained(hub.models, tmp_path / "out")
    told = hub.python(f"""
api.create_repo({name!r})
for path in ("README.md", "adapter_config.json", "adapter_model.safetensors"):
    made = api.upload_file(repo_id={name!r}, path_or_fileobj=str(Path({str(folder)!r}) / path), path_in_repo=path)
    tell([made.oid, sorted(api.list_repo_files({name!r}))])
""").told
    assert len({oid for oid, _ in told}) == 3
    assert [files for _, files in told] == [[], [], ["README.md", "adapter_config.json", "adapter_model.safetensors"]]
    assert [version["number"] for version in hub.versions(name)] == [1]


def test_a_parent_that_is_not_the_newest(hub: Registry, tmp_path: Path) -> None:
    """Somebody pushed meanwhile: 412, and nothing changes."""
    name, folder = hub.name(), trained(hub.models, tmp_path / "out")
    stale, fresh = hub.python(f"""
api.create_repo({name!r})
first = api.upload_folder(repo_id={name!r}, folder_path={str(folder)!r}).oid
def card(text, parent):
    return api.create_commit({name!r}, [CommitOperationAdd("README.md", text)], commit_message="x", parent_commit=parent)
second = card(b"# one", first).oid
said(card, b"# two", first)
said(card, b"# two", second)
""").told
    assert (stale["status"], stale["code"]) == (412, "push.stale")
    assert fresh["status"] == 200
    assert [version["number"] for version in hub.versions(name)] == [3, 2, 1]


def test_files_can_be_taken_out(hub: Registry, tmp_path: Path) -> None:
    """A deletion is part of the next version; without weights there is none."""
    name, folder = hub.name(), trained(hub.models, tmp_path / "out")
    missing, kept = hub.python(f"""
api.create_repo({name!r})
api.upload_folder(repo_id={name!r}, folder_path={str(folder)!r})
api.delete_file("README.md", {name!r})
said(api.delete_file, "tokenizer.json", {name!r})
api.delete_file("adapter_model.safetensors", {name!r})
said(api.delete_repo, {name!r})
""").told
    assert (missing["status"], missing["code"]) == (404, "hub.entry")
    assert kept["code"] == "push.kept"
    newest = hub.versions(name)[0]
    assert {file["path"] for file in newest["files"]} == {"adapter_config.json", "adapter_model.safetensors"}


def test_repositories_come_and_go(hub: Registry) -> None:
    """Announced, there once, seen empty, and taken back; nothing but models, nothing of others."""
    name = hub.name()
    told = hub.python(f"""
api.create_repo({name!r})
said(api.create_repo, {name!r})
api.create_repo({name!r}, exist_ok=True)
tell([api.repo_exists({name!r}), api.list_repo_files({name!r})])
api.delete_repo({name!r})
tell([api.repo_exists({name!r})])
said(api.delete_repo, {name!r})
said(api.create_repo, {name!r}, repo_type="dataset")
said(api.create_repo, "{name}.merged")
said(api.create_repo, "rival/theirs")
said(api.upload_file, repo_id={name!r}, path_or_fileobj=b"x", path_in_repo="README.md")
""").told
    exists, there, gone, none, dataset, merged, theirs, unknown = told
    assert (exists["status"], exists["code"]) == (409, "push.exists")
    assert (there, gone) == ([True, []], [False])
    assert none["status"] == theirs["status"] == unknown["status"] == 404
    assert dataset["code"] == "push.type"
    assert merged["code"] == "push.merged"


def test_tokens_of_others(hub: Registry, tmp_path: Path) -> None:
    """A stranger finds nothing to push to; a reader of the owner's may not."""
    name, folder = hub.name(), trained(hub.models, tmp_path / "out")
    hub.python(f"api.create_repo({name!r})").good()
    code = f"said(api.upload_folder, repo_id={name!r}, folder_path={str(folder)!r})"
    assert hub.python(code, owner="rival").told[0]["status"] == 404
    assert hub.python(code, token=hub.token("acme", "read")).told[0]["code"] == "token.scope"
    assert hub.python(code, token="plt_nonsense").told[0]["status"] == 401
    assert hub.versions(name) == []


def test_a_quota_that_is_used_up(hub: Registry, tmp_path: Path) -> None:
    """Refused before bytes are kept, and in the client's words; with room the same push goes through."""
    folder = trained(hub.models, tmp_path / "out")
    with hub.service.client() as admin:
        assert admin.put("/owners/small/quota", json={"bytes": 20_000}).status_code == 200
        code = f"""
api.create_repo("small/tone", exist_ok=True)
said(api.upload_folder, repo_id="small/tone", folder_path={str(folder)!r})
"""
        for variables in ({}, {"HF_HUB_DISABLE_XET": "1"}):
            ran = hub.python(code, owner="small", **variables)
            assert "quota" in (ran.output + ran.errors).lower(), ran.output + ran.errors
            assert hub.versions("small/tone") == []
        assert admin.put("/owners/small/quota", json={"bytes": 10_000_000, "patches": 1}).status_code == 200
        assert hub.python(code, owner="small").told[0]["status"] == 200
        (refused,) = hub.python('said(api.create_repo, "small/second")', owner="small").told
        assert refused["code"] == "quota.exceeded"


def test_a_base_is_pushed_as_a_release(hub: Registry) -> None:
    """`hf upload base/FAMILY DIRECTORY --revision RELEASE`, by an admin; then it is a release like any other."""
    hub.hf("upload", "base/pushed", hub.models / "v1", "--revision", "v3", token=hub.service.token).good()
    row = ready(hub.service, "pushed", "v3")
    assert row["state"] == "ready", row
    with hub.service.client() as admin:
        by_reference = admin.get("/families/llama/releases/v1").json()
    assert row["manifest"] == by_reference["manifest"]
    assert row["copied"]
    again = hub.hf("upload", "base/pushed", hub.models / "v2", "--revision", "v3", token=hub.service.token)
    assert again.code != 0
    assert "releases never change" in again.output + again.errors
    nobody = hub.hf("upload", "base/pushed", hub.models / "v2", "--revision", "v4")
    assert nobody.code != 0
    (loaded,) = hub.python(
        'from transformers import AutoModelForCausalLM\n'
        'tell([type(AutoModelForCausalLM.from_pretrained("base/pushed", revision="v3")).__name__])',
        token=hub.service.token,
    ).told  # fmt: skip
    assert loaded == ["LlamaForCausalLM"]

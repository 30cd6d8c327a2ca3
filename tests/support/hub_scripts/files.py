"""huggingface_hub alone: FAMILY PATCH. Lists, trees, refs, one file, a snapshot, the file system, what is not there."""

import hashlib
import json
import os
import sys
from pathlib import Path

import huggingface_hub
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.utils import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

family, patch = sys.argv[1:3]
base, merged = f"base/{family}", f"{patch}.merged"
api = HfApi()
seen = {"version": huggingface_hub.__version__}


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def refusal(act, kinds):
    try:
        act()
    except kinds as error:
        return [type(error).__name__, str(error)]
    return None


who = api.whoami()
seen["whoami"] = [who["name"], who["type"], who["auth"]["accessToken"]["role"]]
seen["models"] = sorted(model.id for model in api.list_models(author=patch.split("/")[0]))
seen["bases"] = [model.id for model in api.list_models(search=base)]
seen["made_of"] = sorted(model.id for model in api.list_models(filter=f"base_model:{base}"))
seen["two"] = len(list(api.list_models(limit=2)))

info = api.model_info(merged, revision="v2", files_metadata=True)
seen["sha"] = info.sha
seen["tags"] = info.tags
seen["library"] = info.library_name
seen["card"] = info.card_data.to_dict() if info.card_data else None
seen["sizes"] = {sibling.rfilename: sibling.size for sibling in info.siblings}
seen["expanded"] = api.model_info(merged, expand=["sha"]).sha
seen["files"] = sorted(api.list_repo_files(merged, revision="v2"))
seen["exists"] = [
    api.repo_exists(merged),
    api.repo_exists(f"{patch}-nope"),
    api.revision_exists(merged, "v2"),
    api.revision_exists(merged, "v9"),
]
seen["exists"] += [api.file_exists(merged, "config.json"), api.file_exists(merged, "nope.json")]
refs = api.list_repo_refs(merged)
seen["refs"] = {ref.name: ref.target_commit for ref in [*refs.branches, *refs.tags]}
seen["commits"] = [commit.commit_id for commit in api.list_repo_commits(base, revision="v2")]
seen["tree"] = sorted(entry.path for entry in api.list_repo_tree(merged, revision="v2@1", recursive=True, expand=True))
seen["paths"] = {entry.path: entry.size for entry in api.get_paths_info(merged, ["config.json", "nope"], revision="v2")}
if hasattr(api, "auth_check"):
    api.auth_check(merged)

one = hf_hub_download(merged, "config.json", revision=info.sha)
seen["one"] = sha256(one)
seen["blob"] = Path(one).resolve().name
folder = Path(snapshot_download(merged, revision="v2@1"))
seen["folder"] = folder.name
seen["snapshot"] = {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
local = Path(
    snapshot_download(
        patch, revision="1@v2", local_dir=os.environ["HF_HOME"] + "/local", allow_patterns=["*.json", "*.safetensors"]
    )
)
seen["adapter"] = json.loads((local / "adapter_config.json").read_text())
seen["weights"] = sha256(local / "adapter_model.safetensors")

system = HfFileSystem()
seen["ls"] = sorted(Path(path).name for path in system.ls(f"{merged}@v2", detail=False))
shard = next(path for path in system.glob(f"{merged}@v2/*.safetensors"))
with system.open(shard) as file:
    file.seek(100)
    part = file.read(1000)
seen["part"] = part == system.cat_file(shard)[100:1100]

seen["no_repository"] = refusal(lambda: api.model_info(f"{patch}-nope"), RepositoryNotFoundError)
seen["no_revision"] = refusal(lambda: api.model_info(merged, revision="v9"), RevisionNotFoundError)
seen["no_entry"] = refusal(lambda: hf_hub_download(merged, "nope.json", revision="v2"), EntryNotFoundError)
seen["no_model"] = refusal(lambda: hf_hub_download("gpt2", "config.json"), RepositoryNotFoundError)
stranger = os.environ.get("STRANGER")
if stranger:
    other = HfApi(token=stranger)
    seen["foreign"] = refusal(lambda: other.model_info(merged), RepositoryNotFoundError)
    apart = {"token": stranger, "cache_dir": os.environ["HF_HOME"] + "/apart"}
    seen["foreign_file"] = refusal(lambda: hf_hub_download(merged, "config.json", **apart), RepositoryNotFoundError)
    seen["bad_token"] = refusal(lambda: HfApi(token="plt_wrong").model_info(merged), Exception)
print(json.dumps(seen))

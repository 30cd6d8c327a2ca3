"""Each version of the clients: it pushes by Xet and by LFS, pins by a tag, gets back what it sent, and is told why it may not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients_matrix.build import ENVIRONMENTS, ROOT, python_of
from tests.support.hub_pushes import TRAINERS, Registry, registry, spoiled, trained

pytestmark = pytest.mark.skipif(not ROOT, reason="`make clients` builds the environments and says where they are")

# A version that shows nobody what a server says beside an answer; the registry names what was left out (`dropped`).
SILENT = {"hub-0.36"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("pushes"), models) as running:
        yield running


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("by", [{}, {"HF_HUB_DISABLE_XET": "1"}], ids=["xet", "lfs"])
def test_a_folder(hub: Registry, environment: str, by: dict[str, str], tmp_path: Path) -> None:
    """Refused with its reason, then published, pushed again to the same version, pinned, changed, fetched as it was pinned."""
    name, bad = hub.name(), spoiled(trained(hub.models, tmp_path / "bad"))
    good = trained(hub.models, tmp_path / "good", card=name)
    weights = good / "adapter_model.safetensors"
    ran = hub.python(f"""
import huggingface_hub
tell(huggingface_hub.__version__)
api.create_repo({name!r}, private=True); api.create_repo({name!r}, exist_ok=True)
said(api.upload_folder, repo_id={name!r}, folder_path={str(bad)!r})
first = api.upload_folder(repo_id={name!r}, folder_path={str(good)!r}).oid
tell([first, api.upload_folder(repo_id={name!r}, folder_path={str(good)!r}).oid])
api.create_tag({name!r}, tag="v1.0")
said(api.create_tag, {name!r}, tag="v1.0")
tell(api.upload_file(repo_id={name!r}, path_or_fileobj=b"# other", path_in_repo="README.md").oid)
fetched = Path(api.hf_hub_download({name!r}, "adapter_model.safetensors", revision="v1.0"))
tell([fetched.read_bytes() == Path({str(weights)!r}).read_bytes(), api.model_info({name!r}, revision="v1.0").sha == first])
""", interpreter=python_of(Path(ROOT), environment), **by)  # fmt: skip
    version, refused, pushed, taken, changed, same = ran.told
    assert version.startswith(environment.removeprefix("hub-"))
    assert refused["code"] == "adapter.unpaired", refused
    assert "has lora_A but no lora_B" in refused["message"]
    assert pushed[0] == pushed[1] != changed
    assert (taken["status"], taken["code"]) == (409, "push.tag_exists")
    assert same == [True, True]
    assert ("Left out, not part of a patch" in ran.errors) == (environment not in SILENT)
    newest, first = hub.versions(name)
    assert (newest["number"], first["number"], first["trained_on"]) == (2, 1, "v1")
    assert first["dropped"] == sorted(TRAINERS)

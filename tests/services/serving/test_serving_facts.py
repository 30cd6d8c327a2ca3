"""serving.json: which engines can serve a port, and how they are started."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.core.serving import MAX_LORA_RANKS
from tests.support.fixtures import World
from tests.support.hub_requests import Hub
from tests.support.models import Shelf
from tests.support.registry import Caller, Service, refused, unique

COMMIT = re.compile(r"[0-9a-f]{40}")


def serving(caller: Caller, port: str) -> dict[str, Any]:
    answer = caller.get(f"/ports/{port}/serving.json")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def option(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in document["options"] if one["name"] == name)


def codes(document: dict[str, Any], name: str) -> dict[str, str]:
    return {reason["code"]: reason["severity"] for reason in option(document, name)["reasons"]}


@pytest.fixture(scope="module")
def ready(world: World) -> dict[str, Any]:
    return serving(world.acme, world.port["id"])


def test_plain_patch_is_served_as_adapter_and_merged(ready: dict[str, Any], world: World) -> None:
    """The adapter on the shared base is preferred; what cannot be says why."""
    assert (ready["port"], ready["state"], ready["servable"]) == (world.port["id"], "ready", True)
    assert (ready["patch"], ready["version"], ready["family"], ready["release"]) == ("acme/tone", 1, "llama", "v2")
    assert ready["recommended"] == "vllm-adapter"
    assert {o["name"]: o["servable"] for o in ready["options"]} == {
        "vllm-adapter": True, "vllm-merged": True, "transformers-serve-merged": True, "transformers-serve-adapter": False,
    }  # fmt: skip
    assert codes(ready, "vllm-adapter") == {"serving.factors_rounded": "info"}
    assert codes(ready, "transformers-serve-adapter") == {"serving.no_adapters": "refuse"}
    assert option(ready, "transformers-serve-adapter")["launches"] == []


def test_serving_facts_equal_the_files(ready: dict[str, Any]) -> None:
    facts = ready["facts"]
    assert (facts["rank"], facts["max_lora_rank"], tuple(facts["max_lora_ranks"])) == (8, 8, MAX_LORA_RANKS)
    assert set(facts["target_modules"]) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert (facts["factor_dtypes"], facts["output_dtypes"]) == (["F32"], ["BF16"])
    assert (facts["bias"], facts["modules_to_save"], facts["use_rslora"], facts["rank_pattern"]) == ("none", [], False, False)


def test_serving_addresses_lead_to_the_commit_and_files(ready: dict[str, Any], world: World) -> None:
    """Repository and revision lead to the commit, and the files at the commit have the digests."""
    hub = Hub(world.acme)
    for part in ("base", "adapter", "merged"):
        address = ready[part]
        assert COMMIT.fullmatch(address["commit"])
        assert hub.sha(address["repository"], address["revision"]) == address["commit"]
    assert (ready["base"]["repository"], ready["base"]["revision"]) == ("base/llama", "v2")
    assert (ready["adapter"]["repository"], ready["adapter"]["revision"]) == ("acme/tone", "1@v2")
    assert (ready["merged"]["repository"], ready["merged"]["revision"]) == ("acme/tone.merged", "v2@1")
    entries = {e["path"]: e for e in hub.tree("acme/tone", ready["adapter"]["commit"])}
    assert [file["path"] for file in ready["adapter"]["files"]] == ["adapter_config.json", "adapter_model.safetensors"]
    for file in ready["adapter"]["files"]:
        assert (file["sha256"], file["size"]) == (entries[file["path"]]["lfs"]["oid"], entries[file["path"]]["size"])
    assert ready["merged"]["total_bytes"] == sum(e["size"] for e in hub.tree("acme/tone.merged", "v2@1"))


def test_serving_commands_name_pinned_revisions(ready: dict[str, Any]) -> None:
    """Every word is a plain one: what is copied into a shell does what it says."""
    static, resolved = option(ready, "vllm-adapter")["launches"]
    base = "vllm serve base/llama --revision v2 --dtype bfloat16 --enable-lora --max-lora-rank 8"
    assert static["commands"] == [
        ["hf", "download", "acme/tone", "--revision", "1@v2", "--local-dir", "./acme-tone-1-on-v2-adapter"],
        f"{base} --lora-modules acme/tone@1=./acme-tone-1-on-v2-adapter".split(),
    ]
    assert resolved["commands"] == [base.split()]
    assert resolved["environment"]["PORTLLM_VLLM_BASE"] == "base/llama@v2"
    assert resolved["environment"]["VLLM_PLUGINS"] == "portllm_lora_resolver"
    (merged,) = option(ready, "vllm-merged")["launches"]
    assert merged["commands"] == [
        ["vllm", "serve", "acme/tone.merged", "--revision", "v2@1", "--served-model-name", "acme/tone@1", "--dtype", "bfloat16"]
    ]
    (whole,) = option(ready, "transformers-serve-merged")["launches"]
    assert whole["commands"][0] == ["portllm", "pull", ready["port"], "./acme-tone-1-on-v2"]
    for command in (c for o in ready["options"] for launch in o["launches"] for c in launch["commands"]):
        assert shlex.join(command) == " ".join(command)


def test_port_in_another_dtype_is_not_served_as_adapter(world: World, another: Callable[[], Path]) -> None:
    """In another dtype the port is not what base and adapter are together, and has no name in the Hub protocol."""
    name = world.patch()
    world.acme.publish(name, another())
    port = world.acme.port(name, "v2", recipe={"dtype": "float32"})
    found = serving(world.acme, port["id"])
    assert found["recommended"] == "vllm-merged"
    assert codes(found, "vllm-adapter")["serving.recipe"] == "refuse"
    assert codes(found, "vllm-merged") == {"serving.no_address": "info"}
    assert (found["adapter"], found["merged"], found["base"]["revision"]) == (None, None, "v2")
    (launch,) = option(found, "vllm-merged")["launches"]
    assert launch["commands"][0][:3] == ["portllm", "pull", port["id"]]
    assert launch["commands"][1][-2:] == ["--dtype", "float32"]


def test_patch_with_its_own_tokenizer_has_a_warning(world: World, shelf: Shelf) -> None:
    """Beside a shared base nobody reads it."""
    name = world.patch()
    directory = shelf.patch(world.models.v1, seed=77, tokenizer=True)
    config = directory / "tokenizer_config.json"
    config.write_text(config.read_text().replace("{", '{"padding_side": "left",', 1))
    world.acme.publish(name, directory)
    found = serving(world.acme, world.acme.port(name, "v2")["id"])
    assert codes(found, "vllm-adapter")["serving.tokenizer"] == "warn"
    assert "serving.tokenizer" not in codes(found, "vllm-merged")
    assert found["facts"]["own_tokenizer"] == ["tokenizer_config.json"]


@pytest.mark.parametrize("state", ["refused", "held", "retired"])
def test_port_that_is_not_ready_is_not_served(world: World, another: Callable[[], Path], state: str) -> None:
    """Held, refused and retired ports say so, and lead nowhere."""
    name = world.patch()
    world.acme.publish(name, another(), trained_on="unknown" if state == "held" else "v1")
    port = world.acme.port(name, "wide" if state == "refused" else "v2")
    if state == "retired":
        assert world.acme.post(f"/ports/{port['id']}/retire").status_code == 200
    found = serving(world.acme, port["id"])
    assert (found["state"], found["servable"], found["recommended"]) == (state, False, None)
    for one in found["options"]:
        assert [(r["code"], r["data"]) for r in one["reasons"]] == [("serving.port_state", {"state": state})]
        assert one["launches"] == []
    assert [found[part] for part in ("facts", "base", "adapter", "merged")] == [None] * 4


def test_yanked_version_has_a_warning(world: World, another: Callable[[], Path]) -> None:
    name = world.patch()
    world.acme.publish(name, another())
    port = world.acme.port(name, "v2")["id"]
    assert world.acme.post(f"/patches/{name}/versions/1/yank", {"reason": "old"}).status_code == 200
    found = serving(world.acme, port)
    assert found["servable"]
    assert codes(found, "vllm-adapter")["serving.yanked"] == "warn"


def test_port_of_another_owner_is_unknown(world: World) -> None:
    """And nobody has one that is not there."""
    refused(world.rival.get(f"/ports/{world.port['id']}/serving.json"), 404, "port.unknown")
    refused(world.acme.get("/ports/prt_none/serving.json"), 404, "port.unknown")


def test_port_of_a_withdrawn_family_or_purged_version_is_unknown(fresh: Callable[..., Service], world: World) -> None:
    """Who may not see the base any more learns nothing of it; what was purged is gone."""
    service = fresh()
    assert service.admin.post("/families", {"name": "llama", "readers": ["acme"]}).status_code == 201
    for release in ("v1", "v2"):
        service.release("llama", release, getattr(world.models, release))
    acme = service.caller("acme", "read", "publish", "operate")
    name = acme.patch("acme", unique("patch"))
    acme.publish(name, world.models.patch)
    port = acme.port(name, "v2")["id"]
    assert serving(acme, port)["servable"]
    assert service.admin("DELETE", "/families/llama/grants/acme").status_code in (200, 204)
    refused(acme.get(f"/ports/{port}/serving.json"), 404, "family.unknown")
    assert service.admin("PUT", "/families/llama/grants/acme").status_code in (200, 201, 204)
    assert acme.post(f"/patches/{name}/versions/1/purge", {"reason": "erased"}).status_code in (200, 202)
    refused(acme.get(f"/ports/{port}/serving.json"), 410, "version.purged")

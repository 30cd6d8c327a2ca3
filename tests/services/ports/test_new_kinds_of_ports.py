"""A kind of patch, a kind of base and a strategy that only the registries of `core` know are published, ported and served."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.core.offline import merge
from app.core.recipe import Recipe
from tests.support.files import Tensor, matrix, write_base
from tests.support.registry import Service, refused
from tests.support.toy_kinds import eight_bits, register, write_diagonal

MODULE = "model.layers.0.self_attn.q_proj"
SHAPE = (40, 50)
FILE = "model.safetensors"


def begin(service: Service, weight: Tensor, **config: Any) -> Path:
    """Registers a release v1 of one weight; its directory."""
    service.admin.family("llama")
    base = write_base(service.place / "base", {f"{MODULE}.weight": weight}, **config)
    assert service.release("llama", "v1", base)["state"] == "ready"
    return base


@pytest.mark.parametrize("strategy", ["add", "halve"])
@pytest.mark.parametrize("bits", [32, 8])
def test_port_of_new_kinds_is_served_by_ranges(
    fresh: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, bits: int
) -> None:
    register(monkeypatch)
    service = fresh()
    quantised = {"quantization_config": {"quant_method": "toy_8bit", "scale": 2.0**-6}} if bits == 8 else {}
    base = begin(service, eight_bits(SHAPE, 1) if bits == 8 else matrix(SHAPE, "F32", 1), **quantised)
    patch, acme = write_diagonal(tmp_path / "patch", MODULE, 40, gain=32.0), service.caller("acme")
    version = acme.publish(acme.patch("acme", "tone"), patch)
    assert version["facts"]["gain"] == 32.0
    port = acme.port("acme/tone", "v1", recipe={"strategy": strategy})
    assert port["state"] == "ready", port["findings"]
    merge(base, patch, tmp_path / "out", Recipe(strategy))
    whole = (tmp_path / "out" / FILE).read_bytes()
    assert whole != (base / FILE).read_bytes()
    url = f"/ports/{port['id']}/files/{FILE}"
    assert acme.get(url).content == whole
    spans = ((0, 10), (11, 200), (201, len(whole) - 1))
    assert b"".join(acme.get(url, {"Range": f"bytes={first}-{last}"}).content for first, last in spans) == whole


def test_ports_of_two_strategies_have_two_fingerprints(
    fresh: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch)
    service = fresh()
    begin(service, matrix(SHAPE, "F32", 1))
    acme = service.caller("acme")
    acme.publish(acme.patch("acme", "tone"), write_diagonal(tmp_path / "patch", MODULE, 40))
    ports = [acme.port("acme/tone", "v1", recipe={"strategy": name}) for name in ("add", "halve")]
    assert ports[0]["fingerprint"] != ports[1]["fingerprint"]


def test_adapter_of_a_new_kind_is_not_served_by_vllm(
    fresh: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch)
    service = fresh()
    begin(service, matrix(SHAPE, "F32", 1))
    acme = service.caller("acme")
    acme.publish(acme.patch("acme", "tone"), write_diagonal(tmp_path / "patch", MODULE, 40))
    port = acme.port("acme/tone", "v1")
    served = acme.get(f"/ports/{port['id']}/serving.json").json()
    reasons = {option["engine"]: option["reasons"] for option in served["options"] if option["mode"] == "adapter"}
    assert {"serving.setting"} <= {reason["code"] for reason in reasons["vllm"]}


def test_patch_that_needs_a_prepass_is_refused_by_the_registry(
    fresh: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch)
    service = fresh()
    begin(service, matrix(SHAPE, "F32", 1))
    acme = service.caller("acme")
    draft = acme.uploaded(acme.patch("acme", "tone"), write_diagonal(tmp_path / "patch", MODULE, 40, normed=True))
    refused(acme.post(f"/uploads/{draft['id']}/publish"), 422, "adapter.prepass")


def test_unregistered_kinds_are_refused_by_the_registry(fresh: Callable[..., Service], tmp_path: Path) -> None:
    service = fresh()
    begin(service, matrix(SHAPE, "F32", 1))
    acme = service.caller("acme")
    draft = acme.uploaded(acme.patch("acme", "tone"), write_diagonal(tmp_path / "patch", MODULE, 40))
    refused(acme.post(f"/uploads/{draft['id']}/publish"), 422, "adapter.peft_type")
    wish = {"patch": "acme/tone", "release": "v1", "recipe": {"strategy": "halve"}}
    refused(acme.post("/ports", wish), 422, "recipe.invalid")


def test_kinds_are_listed_in_the_documented_schema(fresh: Callable[..., Service]) -> None:
    recipe = fresh().app.openapi()["components"]["schemas"]["RecipeIn"]["properties"]
    assert recipe["strategy"]["enum"] == ["add"]
    assert recipe["dtype"]["enum"] == ["float32", "float16", "bfloat16", None]
    assert recipe["tokenizer"]["enum"] == ["release", "patch"]

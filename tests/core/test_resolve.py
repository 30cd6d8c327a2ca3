"""From a patch file to the deltas of a base: the modules, ranks and scales that PEFT has, or a refusal."""

from pathlib import Path
from typing import Any

import pytest
from peft import IA3Config, LoHaConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from app.core.checkpoint import read_checkpoint
from app.core.errors import CoreError
from app.core.lora.deltas import LoraDelta
from app.core.lora.kind import LoraAdapter
from app.core.offline import open_directory
from app.core.patch import read_patch
from tests.support.files import Tensor, factors, matrix, write_base, write_patch
from tests.support.models import Shelf, load_tensors, make_patch

Q = "model.layers.0.self_attn.q_proj"


def resolved(base: Path, patch: Path) -> tuple[LoraDelta, ...]:
    with open_directory(base) as opened, open_directory(patch) as other:
        read = read_patch(other.source, other.files)
        assert isinstance(read.adapter, LoraAdapter)
        return read.adapter.resolve(read_checkpoint(opened.source, opened.files))


def refused(base: Path, patch: Path) -> str:
    with pytest.raises(CoreError) as refusal:
        resolved(base, patch)
    return refusal.value.code


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"r": 3, "lora_alpha": 2.5, "use_rslora": True},
        {"target_modules": ["q_proj", "layers.1.mlp.up_proj"], "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"up_proj": 1.5}},
        {"target_modules": r".*\.(q|v)_proj", "exclude_modules": ["layers.0.self_attn.v_proj"]},
        {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1, 5], "layers_pattern": ["layers"]},
        {
            "rank_pattern": {r"layers\.0\..*": 5, "o_proj": 6},
            "alpha_pattern": {"o_proj": 7, r"layers\.0\..*": 9},
            "use_rslora": True,
        },
        {"target_modules": ["lm_head", "k_proj"], "save_embedding_layers": False},
    ],
)
def test_deltas_have_the_modules_ranks_and_scales_of_peft(settings: dict[str, Any], shelf: Shelf) -> None:
    base = shelf.base("llama", num_hidden_layers=3)
    patch = shelf.patch(base, **settings)
    deltas = resolved(base, patch)
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), patch).base_model
    layers = {name: peft.model.get_submodule(name) for name in peft.targeted_module_names}
    assert [d.tensor for d in deltas] == sorted(f"{name}.weight" for name in layers)
    for delta in deltas:
        layer = layers[delta.factors.module]
        assert delta.factors.rank == layer.r["default"]
        assert delta.scale == layer.scaling["default"]
        assert delta.factors.shape == tuple(layer.weight.shape)


FEATURES = [
    ("adapter.dora", {"use_dora": True}),
    ("adapter.modules_to_save", {"modules_to_save": ["lm_head"]}),
    ("adapter.bias", {"bias": "all"}),
    ("adapter.embedding", {"target_modules": ["q_proj", "embed_tokens"]}),
    ("adapter.embedding", {"target_modules": ["q_proj", "lm_head"]}),
    ("adapter.embedding", {"trainable_token_indices": [3, 4]}),
    ("adapter.init_changes_base", {"init_lora_weights": "pissa"}),
    ("adapter.init_changes_base", {"init_lora_weights": "olora"}),
    ("adapter.variant", {"layer_replication": [[0, 2], [1, 2]]}),
    ("adapter.variant", {"alora_invocation_tokens": [1, 2]}),
]


@pytest.mark.parametrize(("code", "settings"), FEATURES)
def test_features_of_real_patches_are_refused(code: str, settings: dict[str, Any], shelf: Shelf, tmp_path: Path) -> None:
    base = shelf.base("llama", dtype="float32")
    patch = make_patch(base, tmp_path / "patch", **({"target_modules": ["q_proj"]} | settings))
    assert refused(base, patch) == code


@pytest.mark.parametrize(
    "other", [IA3Config(target_modules=["q_proj"], feedforward_modules=[]), LoHaConfig(target_modules=["q_proj"])]
)
def test_other_kinds_of_patch_are_refused(other: Any, shelf: Shelf, tmp_path: Path) -> None:
    base = shelf.base("llama")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), other).save_pretrained(tmp_path)
    assert refused(base, tmp_path) == "adapter.peft_type"


def test_a_patch_for_another_size_is_refused(shelf: Shelf) -> None:
    patch = shelf.patch(shelf.base("llama"))
    assert refused(shelf.base("llama", hidden_size=72), patch) == "port.shape"


def test_a_patch_for_another_architecture_is_refused(shelf: Shelf) -> None:
    patch = shelf.patch(shelf.base("llama"))
    assert refused(shelf.base("phi3"), patch) == "port.target_missing"


def test_a_patch_for_fewer_layers_is_refused(shelf: Shelf) -> None:
    """PEFT would leave the third layer as it is."""
    patch = shelf.patch(shelf.base("llama"), target_modules=["q_proj"])
    assert refused(shelf.base("llama", num_hidden_layers=3), patch) == "adapter.not_in_file"


def test_a_patch_for_more_layers_is_refused(shelf: Shelf) -> None:
    patch = shelf.patch(shelf.base("llama", num_hidden_layers=3), target_modules=["q_proj"])
    assert refused(shelf.base("llama"), patch) == "port.target_missing"


def test_a_patch_that_lost_a_layer_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    base = shelf.base("llama")
    patch = make_patch(base, tmp_path / "patch")
    tensors, metadata = load_tensors(patch / "adapter_model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layers.1.mlp.up_proj" not in name}
    save_file(kept, patch / "adapter_model.safetensors", metadata=metadata)
    assert refused(base, patch) == "adapter.not_in_file"


@pytest.mark.parametrize(
    ("code", "weight"),
    [
        ("port.target_dtype", ("F64", (6, 8), bytes(384))),
        ("port.target_dtype", ("F8_E4M3", (6, 8), bytes(48))),
        ("port.target_dtype", ("U8", (6, 8), bytes(48))),
        ("port.shape", matrix((8, 6), "BF16", 1)),
        ("port.shape", matrix((6, 9), "BF16", 1)),
        ("adapter.not_targeted", matrix((48,), "BF16", 1)),
        ("adapter.not_targeted", matrix((2, 3, 8), "BF16", 1)),
    ],
)
def test_weights_that_a_patch_cannot_change(code: str, weight: Tensor, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", {f"{Q}.weight": weight})
    patch = write_patch(tmp_path / "patch", {Q: factors((6, 8), 2, "F32", 1)})
    assert refused(base, patch) == code


def test_the_factors_of_a_pair_may_differ_in_dtype(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", {f"{Q}.weight": matrix((6, 8), "F16", 1)})
    (a, _), (_, b) = factors((6, 8), 2, "BF16", 1), factors((6, 8), 2, "F16", 1)
    (delta,) = resolved(base, write_patch(tmp_path / "patch", {Q: (a, b)}))
    assert (delta.factors.a.dtype, delta.factors.b.dtype, delta.scale) == ("BF16", "F16", 2.0)

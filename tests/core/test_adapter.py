"""adapter_config.json and adapter_model.safetensors: every feature that a merge cannot carry is refused by its own code."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from app.core.errors import CATALOGUE, CoreError
from app.core.lora.config import UNDERSTOOD
from app.core.offline import merge
from app.core.patch_kinds import parse_config
from tests.support.files import Tensor, factors, matrix, safetensors_bytes, write_adapter_config, write_base, write_patch

ATTENTION = "model.layers.0.self_attn."
Q, V, HEAD = ATTENTION + "q_proj", ATTENTION + "v_proj", "lm_head"
SHAPES = {Q: (6, 8), V: (4, 8), HEAD: (20, 8), "model.embed_tokens": (20, 8)}
GOOD = ("F32", (2, 8), b"\0" * 64)


def config(**settings: Any) -> Callable[[Path], None]:
    """A patch on q_proj with these settings in its configuration."""
    return lambda path: write_adapter_config(path, **({"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]} | settings))


def config_text(text: str) -> Callable[[Path], None]:
    return lambda path: _write(path / "adapter_config.json", text.encode())


def file(changed: dict[str, Tensor | None], **settings: Any) -> Callable[[Path], None]:
    """A patch on q_proj whose file has other tensors: `changed` by name, None for one that is not there."""

    def change(path: Path) -> None:
        a, b = factors(SHAPES[Q], 2, "F32", 1)
        tensors = {f"base_model.model.{Q}.lora_A.weight": a, f"base_model.model.{Q}.lora_B.weight": b} | changed
        content = safetensors_bytes({name: tensor for name, tensor in tensors.items() if tensor})
        (path / "adapter_model.safetensors").write_bytes(content)
        config(**settings)(path)

    return change


def on(module: str, **settings: Any) -> Callable[[Path], None]:
    """A good pair of factors for a module, named by the configuration."""
    a, b = factors(SHAPES[module], 2, "F32", 1)
    pair = {f"base_model.model.{module}.lora_A.weight": a, f"base_model.model.{module}.lora_B.weight": b}
    return file(dict.fromkeys(_names(Q)) | pair, target_modules=[module], **settings)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def removed(name: str, also: str | None = None) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / name).unlink()
        if also:
            (path / also).write_bytes(b"\x80\x04N.")

    return change


def _names(module: str) -> list[str]:
    return [f"base_model.model.{module}.lora_{half}.weight" for half in "AB"]


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


NAN = ("F32", (2, 8), bytes.fromhex("0000c07f") * 15 + bytes(4))
INFINITY = ("F16", (6, 2), bytes.fromhex("007c") + bytes(22))
REFUSALS = [
    ("adapter.missing_file", removed("adapter_config.json")),
    ("adapter.missing_file", removed("adapter_model.safetensors")),
    ("adapter.pickle", removed("adapter_model.safetensors", "adapter_model.bin")),
    ("adapter.pickle", removed("adapter_model.safetensors", "adapter_model.pt")),
    ("adapter.invalid_config", config_text("{")),
    ("adapter.invalid_config", config_text("[]")),
    ("adapter.invalid_config", config_text('{"peft_type": "LORA"}')),
    ("adapter.invalid_config", config_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["\\ud800"]}')),
    ("adapter.invalid_config", config(r=0)),
    ("adapter.invalid_config", config(r=True)),
    ("adapter.invalid_config", config(r=2.0)),
    ("adapter.invalid_config", config(r=10**9)),
    ("adapter.invalid_config", config(lora_alpha="4")),
    ("adapter.invalid_config", config(lora_alpha=float("nan"))),
    ("adapter.invalid_config", config(lora_alpha=1e10)),
    ("adapter.invalid_config", config_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 1e999, "target_modules": ["q_proj"]}')),
    *(
        ("adapter.invalid_config", config(**{field: value}))
        for huge in (10**400, -(10**400), 10**4000)
        for field, value in (
            *(("lora_alpha", huge), ("alpha_pattern", {"q_proj": huge}), ("rank_pattern", {"q_proj": huge}), ("r", huge)),
            ("layers_to_transform", [huge]),
        )
    ),
    ("adapter.invalid_config", config_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 1%s}' % ("0" * 5000))),
    ("adapter.invalid_config", config(auto_mapping=nested(60))),
    ("adapter.invalid_config", config(use_rslora=1)),
    ("adapter.invalid_config", config(rank_pattern=["q_proj"])),
    ("adapter.invalid_config", config(rank_pattern={"q_proj": 0})),
    ("adapter.invalid_config", config(alpha_pattern={"q_proj": None})),
    ("adapter.invalid_config", config(target_modules=None)),
    ("adapter.invalid_config", config(target_modules=[])),
    ("adapter.invalid_config", config(target_modules=["q_proj", 1])),
    ("adapter.invalid_config", config(target_modules={"q_proj": 1})),
    ("adapter.invalid_config", config(layers_to_transform=[-1])),
    ("adapter.invalid_config", config(layers_to_transform="0")),
    ("adapter.invalid_config", config(base_model_name_or_path=["x"])),
    ("adapter.peft_type", config(peft_type="IA3")),
    ("adapter.peft_type", config(peft_type="lora")),
    ("adapter.peft_type", config(peft_type=None)),
    ("adapter.unknown_field", config(use_time_travel=True)),
    ("adapter.unknown_field", config(new_scale=2)),
    ("adapter.unknown_field", config(new_scale=0)),
    ("adapter.unknown_field", config(new_scale=0.0)),
    ("adapter.unknown_field", config(auto_map={})),
    ("adapter.dora", config(use_dora=True)),
    ("adapter.dora", file({f"base_model.model.{Q}.lora_magnitude_vector": ("F32", (6,), bytes(24))})),
    ("adapter.modules_to_save", config(modules_to_save=["lm_head"])),
    ("adapter.bias", config(bias="all")),
    ("adapter.bias", config(bias="lora_only")),
    ("adapter.bias", config(lora_bias=True)),
    ("adapter.bias", file({f"base_model.model.{Q}.lora_B.bias": ("F32", (6,), bytes(24))})),
    ("adapter.embedding", config(trainable_token_indices=[1, 2])),
    ("adapter.embedding", config(ensure_weight_tying=True)),
    ("adapter.embedding", on("model.embed_tokens")),
    ("adapter.embedding", file({"base_model.model.model.embed_tokens.lora_embedding_A": ("F32", (2, 20), bytes(160))})),
    ("adapter.embedding", file({"base_model.model.lm_head.base_layer.weight": ("F32", (20, 8), bytes(640))})),
    ("adapter.expert_parameters", config(target_parameters=["experts.gate_up_proj"])),
    ("adapter.expert_parameters", file({f"base_model.model.{Q}.lora_A.weight": ("F32", (2, 8, 1), bytes(64))})),
    *(
        ("adapter.init_changes_base", config(init_lora_weights=value))
        for value in ("pissa", "PiSSA", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga")
    ),
    # Not said to change the base: nobody knows what they do.
    *(
        ("adapter.unknown_field", config(init_lora_weights=value))
        for value in ("zzz", "pissa_niter_x", "my_pissa", "", 1, 0, "True", ["eva"], {})
    ),
    *(
        ("adapter.variant", config(**{field: {"x": 1}}))
        for field in (
            *("alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "megatron_config"),
            *("monteclora_config", "use_bdlora", "use_qalora", "velora_config"),
        )
    ),
    *(("adapter.init_changes_base", config(**{field: {"x": 1}})) for field in ("corda_config", "loftq_config", "lora_ga_config")),
    ("adapter.fan_in_fan_out", config(fan_in_fan_out=True)),
    ("adapter.pattern", config(target_modules=r"(q_proj)\1")),
    ("adapter.pattern", config(rank_pattern={"(?=q)q_proj": 2})),
    ("adapter.pattern", config(alpha_pattern={"q" * 201: 2})),
    ("adapter.pattern", config(exclude_modules="(q_proj")),
    ("adapter.pattern", config(layers_to_transform=[0], layers_pattern="[")),
    ("adapter.unknown_tensor", file({"base_model.model.model.norm.weight": ("F32", (8,), bytes(32))})),
    ("adapter.unknown_tensor", file({f"{Q}.lora_A.weight": GOOD})),
    ("adapter.unknown_tensor", file({f"base_model.model.{Q}.lora_A.default.weight": GOOD})),
    ("adapter.unknown_tensor", file({f"base_model.model.{Q}.lora_A": GOOD})),
    ("adapter.unpaired", file({f"base_model.model.{Q}.lora_A.weight": None})),
    ("adapter.unpaired", file({f"base_model.model.{V}.lora_A.weight": GOOD}, target_modules=["q_proj", "v_proj"])),
    ("adapter.not_targeted", file(dict(zip(_names(V), factors(SHAPES[V], 2, "F32", 1), strict=True)))),
    ("adapter.not_targeted", config(layers_to_transform=[1])),
    ("adapter.not_targeted", config(exclude_modules=["q_proj"])),
    ("adapter.not_in_file", config(target_modules=["q_proj", "v_proj"])),
    ("adapter.not_in_file", config(target_modules=r".*_proj")),
    ("adapter.empty", file(dict.fromkeys(_names(Q)))),
    ("adapter.adds_nothing", config(lora_alpha=0)),
    ("adapter.adds_nothing", config(alpha_pattern={"q_proj": 0.0})),
    ("adapter.rank", config(r=3)),
    ("adapter.rank", config(rank_pattern={"q_proj": 1})),
    ("adapter.rank", file({f"base_model.model.{Q}.lora_A.weight": ("F32", (3, 8), bytes(96))})),
    ("adapter.rank", file({f"base_model.model.{Q}.lora_B.weight": ("F32", (6, 3), bytes(72))})),
    ("adapter.rank", file({n: ("F32", s, b"") for n, s in zip(_names(Q), ((0, 8), (6, 0)), strict=True)})),
    ("adapter.dtype", file({f"base_model.model.{Q}.lora_A.weight": ("F64", (2, 8), bytes(128))})),
    ("adapter.dtype", file({f"base_model.model.{Q}.lora_A.weight": ("I8", (2, 8), bytes(16))})),
    ("adapter.non_finite", file({f"base_model.model.{Q}.lora_A.weight": NAN})),
    ("adapter.non_finite", file({f"base_model.model.{Q}.lora_B.weight": INFINITY})),
]  # fmt: skip


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base", {f"{m}.weight": matrix(s, "BF16", 1) for m, s in SHAPES.items()})


@pytest.fixture
def patch(tmp_path: Path) -> Path:
    return write_patch(tmp_path / "patch", {Q: factors(SHAPES[Q], 2, "F32", 1)}, target_modules=["q_proj"])


@pytest.mark.parametrize(("code", "spoil"), REFUSALS, ids=[f"{i}-{code}" for i, (code, _) in enumerate(REFUSALS)])
def test_refused_by_its_own_code(code: str, spoil: Callable[[Path], None], base: Path, patch: Path, tmp_path: Path) -> None:
    spoil(patch)
    with pytest.raises(CoreError) as refusal:
        merge(base, patch, tmp_path / "out")
    assert refusal.value.code == code
    assert refusal.value.detail in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_tied_target_is_refused(base: Path, patch: Path, tmp_path: Path) -> None:
    """A patch on lm_head is fine where the base has one of its own, and refused where it shares the embedding."""
    on(HEAD)(patch)
    assert [d.tensor for d in merge(base, patch, tmp_path / "untied").deltas] == ["lm_head.weight"]
    tied = write_base(
        tmp_path / "tied",
        {f"{m}.weight": matrix(s, "BF16", 1) for m, s in SHAPES.items() if m != HEAD},
        tie_word_embeddings=True,
    )
    with pytest.raises(CoreError) as refusal:
        merge(tied, patch, tmp_path / "out")
    assert refusal.value.code == "adapter.tied_target"


def test_a_base_that_does_not_say_whether_it_is_tied_counts_as_tied(base: Path, patch: Path, tmp_path: Path) -> None:
    """The default of transformers differs from one architecture to the next."""
    on(HEAD)(patch)
    config = json.loads((base / "config.json").read_text())
    del config["tie_word_embeddings"]
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(CoreError) as refusal:
        merge(base, patch, tmp_path / "out")
    assert refusal.value.code == "adapter.tied_target"


def test_every_code_of_adapters_is_in_the_table() -> None:
    elsewhere = {"adapter.tied_target", "adapter.prepass"}  # the latter by a kind that needs one: test_new_kinds
    tested = {code for code, _ in REFUSALS} | elsewhere
    assert tested == {code for code in CATALOGUE if code.startswith("adapter.")}


def test_every_setting_of_peft_is_understood() -> None:
    """Each field of PEFT's LoraConfig is read, known to be without effect, or refused; `runtime_config` is never saved."""
    saved = set(LoraConfig().to_dict())
    assert saved <= UNDERSTOOD
    assert {f.name for f in fields(LoraConfig)} - saved == {"runtime_config"}


@pytest.mark.parametrize("init", [True, False, "gaussian", "orthogonal", "eva", "mica"])
def test_what_peft_saves_by_default_is_accepted(init: Any, tmp_path: Path) -> None:
    """A configuration as PEFT writes it, with values for everything that has no effect on a merge."""
    LoraConfig(
        r=4, lora_alpha=2.5, target_modules=["q_proj"], lora_dropout=0.1, init_lora_weights=init, inference_mode=True,
        base_model_name_or_path="acme/base", revision="abc", task_type="CAUSAL_LM",
    ).save_pretrained(tmp_path)  # fmt: skip
    read = parse_config((tmp_path / "adapter_config.json").read_bytes())
    assert (read.rank, read.alpha, read.rslora, read.target_modules) == (4, 2.5, False, ("q_proj",))
    assert (read.base_model, read.revision) == ("acme/base", "abc")


def test_unknown_settings_that_ask_for_nothing_are_accepted() -> None:
    text = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": "q", "a": None, "b": False, "c": {}, "d": [], "e": ""}
    assert parse_config(json.dumps(text).encode()).target_modules == "q"


def test_a_configuration_of_more_than_a_mebibyte_is_refused() -> None:
    text = json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q"], "revision": "x" * 2**20})
    with pytest.raises(CoreError) as refusal:
        parse_config(text.encode())
    assert refusal.value.code == "adapter.invalid_config"

"""Which engines take which adapters: the table, over many adapters."""

import dataclasses
from typing import Any

import pytest

from app.core.findings import Finding
from app.core.lora.config import REFUSED
from app.core.naming import ARCHITECTURES
from app.core.recipe import Recipe
from app.core.serving import BY_TRANSFORMERS, MAX_LORA_RANKS, NATIVE, WITHOUT_ADAPTERS, Facts, Option, decide

CONFIG: dict[str, Any] = {
    "peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"], "bias": "none", "use_dora": False,
    "modules_to_save": None, "init_lora_weights": True, "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False,
}  # fmt: skip
PLAIN = Facts(
    state="ready", recipe=Recipe(), config=CONFIG, ranks=frozenset({16}), modules=frozenset({"q_proj", "v_proj"}),
    factor_dtypes=("BF16",), model_type="llama", output_dtypes=("BF16",),
)  # fmt: skip


def facts(config: dict[str, Any] | None = None, **changes: Any) -> Facts:
    return dataclasses.replace(PLAIN, config=CONFIG | (config or {}), **changes)


def option(found: Facts, name: str = "vllm-adapter") -> Option:
    return next(one for one in decide(found) if one.name == name)


def codes(found: Facts, name: str = "vllm-adapter") -> dict[str, str]:
    return {reason.code: reason.severity for reason in option(found, name).reasons}


def test_a_plain_adapter_has_nothing_against_it() -> None:
    """An adapter in the base's own dtype: no reason at all, and it comes first."""
    first = decide(PLAIN)[0]
    assert (first.name, first.reasons, first.servable) == ("vllm-adapter", (), True)


@pytest.mark.parametrize(
    ("rank", "limit"), [(1, 1), (2, 8), (8, 8), (9, 16), (16, 16), (33, 64), (200, 256), (257, 320), (321, 512), (512, 512)]
)
def test_the_least_rank_that_vllm_takes_is_named(rank: int, limit: int) -> None:
    """Its option takes a few values only: rank 24 needs 32."""
    found = facts({"r": rank}, ranks=frozenset({rank}))
    assert limit in MAX_LORA_RANKS
    assert found.max_lora_rank == limit
    assert option(found).servable


@pytest.mark.parametrize("rank", [513, 4096])
def test_a_rank_that_vllm_never_takes_is_refused(rank: int) -> None:
    found = facts({"r": rank}, ranks=frozenset({rank}))
    assert (found.max_lora_rank, codes(found)) == (None, {"serving.rank": "refuse"})
    assert option(found, "vllm-merged").servable


def test_the_rank_is_the_largest_of_file_settings_and_patterns() -> None:
    """vLLM compares the settings with its limit, also where no module has that rank."""
    assert facts({"r": 8, "rank_pattern": {"q_proj": 40}}, ranks=frozenset({8})).max_lora_rank == 64
    assert facts({"r": 64}, ranks=frozenset({4})).max_lora_rank == 64
    assert facts({"r": 4}, ranks=frozenset({4, 30})).max_lora_rank == 32


@pytest.mark.parametrize(
    "harmless",
    [
        {"use_rslora": True}, {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 4.5}}, {"lora_dropout": 0.1},
        {"init_lora_weights": "gaussian"}, {"init_lora_weights": "eva"}, {"init_lora_weights": False}, {"bias": None},
        {"modules_to_save": []}, {"layers_to_transform": [0]}, {"exclude_modules": ["o_proj"]}, {"a_new_setting": None},
        {"revision": "v1", "base_model_name_or_path": "base/llama"}, {"task_type": "CAUSAL_LM"},
    ],
)  # fmt: skip
def test_settings_that_vllm_understands(harmless: dict[str, Any]) -> None:
    assert codes(facts(harmless)) == {}


REFUSALS: list[dict[str, Any]] = [
    {"use_dora": True}, {"bias": "all"}, {"bias": "lora_only"}, {"lora_bias": True}, {"modules_to_save": ["lm_head"]},
    {"trainable_token_indices": [1]}, {"ensure_weight_tying": True}, {"target_parameters": ["experts.gate_up_proj"]},
    {"fan_in_fan_out": True}, {"init_lora_weights": "pissa"}, {"init_lora_weights": "pissa_niter_4"},
    {"init_lora_weights": "olora"}, {"init_lora_weights": "corda"}, {"init_lora_weights": "loftq"},
    {"init_lora_weights": "lora_ga"}, {"alora_invocation_tokens": [1]}, {"layer_replication": [[0, 1]]}, {"use_qalora": True},
    {"use_bdlora": {"nblocks": 2}}, {"kasa_config": {"x": 1}}, {"arrow_config": {"x": 1}}, {"monteclora_config": {"x": 1}},
    {"a_new_setting": 3}, {"modules_to_save": 5},
]  # fmt: skip


@pytest.mark.parametrize("setting", REFUSALS, ids=str)
def test_settings_that_vllm_refuses_or_ignores(setting: dict[str, Any]) -> None:
    """Both are refused here; the sentence says which, for what is ignored would be served as something else."""
    found = facts(setting)
    assert codes(found) == {"serving.setting": "refuse"}
    (reason,) = option(found).reasons
    assert reason.data["field"] == next(iter(setting))
    ignored = {
        "kasa_config",
        "arrow_config",
        "monteclora_config",
        "target_parameters",
        "trainable_token_indices",
        "a_new_setting",
    }
    if set(setting) & ignored:
        assert "does not look at it" in reason.message
    if "use_dora" in setting:
        assert "vLLM refuses it" in reason.message


def test_every_setting_that_a_merge_refuses_is_met() -> None:
    """What is new in that table is looked at here too."""
    met = {field for setting in REFUSALS for field in setting}
    configured = {"corda_config", "loftq_config", "lora_ga_config", "megatron_config", "velora_config"}  # by the same line
    assert set(REFUSED) - configured <= met
    for field in configured:
        assert codes(facts({field: {"x": 1}})) == {"serving.setting": "refuse"}


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_every_architecture_that_is_carried_was_looked_up(model_type: str) -> None:
    """In vLLM's list, or known not to be; whole models are served wherever they are listed."""
    found = facts(model_type=model_type)
    refused = {"stablelm", "helium"}
    assert codes(found) == ({"serving.architecture": "refuse"} if model_type in refused else {})
    assert option(found, "vllm-merged").servable
    assert codes(found, "vllm-merged") == ({"serving.architecture": "warn"} if model_type == "helium" else {})


def test_the_tables_of_architectures_do_not_overlap() -> None:
    assert not NATIVE & BY_TRANSFORMERS
    assert not (NATIVE | BY_TRANSFORMERS) & WITHOUT_ADAPTERS
    assert ARCHITECTURES >= NATIVE | BY_TRANSFORMERS | WITHOUT_ADAPTERS


@pytest.mark.parametrize(
    ("model_type", "takes"),
    [("llama", True), ("qwen3", True), ("phi3", True), ("qwen2", False), ("mistral", False), ("olmo2", False)],
)  # fmt: skip
def test_the_output_layer_is_a_matter_of_the_architecture(model_type: str, takes: bool) -> None:
    found = facts(model_type=model_type, modules=frozenset({"q_proj", "lm_head"}))
    assert codes(found) == ({} if takes else {"serving.target_module": "refuse"})


def test_input_embeddings_are_never_taken_beside_a_shared_base() -> None:
    """The registry knows no additive rule for them, so nothing would say what the engine serves."""
    found = option(facts(modules=frozenset({"embed_tokens"})))
    assert [(r.code, r.data) for r in found.reasons] == [("serving.target_module", {"modules": ["embed_tokens"]})]


@pytest.mark.parametrize(
    ("factors", "base", "expected"),
    [
        (("BF16",), ("BF16",), {}), (("F32",), ("BF16",), {"serving.factors_rounded": "info"}),
        (("BF16",), ("F16",), {"serving.factors_rounded": "info"}), (("F16",), ("F16",), {}),
        (("F32",), ("F32",), {"serving.adapter_dtype": "warn", "serving.factors_rounded": "info"}),
        (("BF16",), ("BF16", "F32"), {"serving.adapter_dtype": "warn"}),
    ],
)  # fmt: skip
def test_what_the_engine_rounds(factors: tuple[str, ...], base: tuple[str, ...], expected: dict[str, str]) -> None:
    """Factors take the base's dtype, and a base of 32 bits loses half of its own beside adapters."""
    found = facts(factor_dtypes=factors, output_dtypes=base)
    assert codes(found) == expected
    assert option(found).servable


@pytest.mark.parametrize("recipe", [Recipe(dtype="float32"), Recipe(tokenizer="patch")])
def test_only_the_plain_recipe_is_an_adapter(recipe: Recipe) -> None:
    found = facts(recipe=recipe)
    assert codes(found) == {"serving.recipe": "refuse"}
    assert codes(found, "vllm-merged") == {"serving.no_address": "info"}
    assert codes(found, "transformers-serve-merged") == {"serving.no_address": "info"}


def test_what_is_lost_in_rounding_is_said_of_merged_models_only() -> None:
    """An adapter loses nothing of it."""
    found = facts(low_fidelity=Finding("fidelity.low", "warn", "Much is lost."))
    assert codes(found) == {}
    assert codes(found, "vllm-merged") == codes(found, "transformers-serve-merged") == {"fidelity.low": "warn"}


def test_own_tokenizers_and_yanks_are_warnings() -> None:
    assert codes(facts(own_tokenizer=("tokenizer.json",))) == {"serving.tokenizer": "warn"}
    found = facts(yanked=("version", "release"))
    assert [(r.code, r.data["what"]) for r in option(found).reasons] == [
        ("serving.yanked", "version"), ("serving.yanked", "release"),
    ]  # fmt: skip
    assert all(one.servable for one in decide(found) if one.name != "transformers-serve-adapter")


@pytest.mark.parametrize("state", ["checking", "held", "refused", "retired"])
def test_nothing_is_said_of_what_is_not_ready(state: str) -> None:
    """But that it is not."""
    for one in decide(facts(state=state, model_type="stablelm", ranks=frozenset({9999}))):
        assert (one.servable, [r.code for r in one.reasons]) == (False, ["serving.port_state"])


def test_transformers_serve_has_no_adapters() -> None:
    assert codes(PLAIN, "transformers-serve-adapter") == {"serving.no_adapters": "refuse"}

"""Which modules a configuration names, and with what rank and alpha: as PEFT's own code says, over generated configurations."""

import json
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from app.core.errors import AdapterError
from app.core.lora.config import Selector
from app.core.patch_kinds import parse_config

LEAVES = ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.gate_up_proj", "mlp.experts.1.up_proj"]
MODULES = [
    *(f"model.layers.{i}.{leaf}" for i in (0, 1, 10, 11) for leaf in LEAVES),
    *(f"encoder.h.{i}.q_proj" for i in (0, 1)),
    *("layers.1.q_proj", "h.0.q_proj", "1.q_proj", "model.1.q_proj", "model.q_proj", "q_proj", "lm_head", "model.embed_tokens"),
    *(
        "vision.layers.1.model.layers.0.q_proj",
        "model.layers.0.xq_proj",
        "model.layers_0.q_proj",
        "model.layers.0.q_proj.0.up_proj",
    ),
]
NAMES = st.sampled_from(
    [
        *MODULES,
        *LEAVES,
        "q_proj",
        "v_proj",
        "up_proj",
        "proj",
        "0.self_attn.q_proj",
        "1",
        "layers",
        "lm_head",
        "up.proj",
        ".q_proj",
    ]
)
PIECES = st.sampled_from(
    [
        *(
            ".*",
            ".*?",
            ".",
            r"\.",
            r"\d",
            r"\d+",
            "model",
            "layers",
            "h",
            "0",
            "1",
            "self_attn",
            "mlp",
            "q_proj",
            "up_proj",
            "proj",
        ),
        *("(q|v)_proj", "(?:up|gate_up)_proj", "[qv]_proj", "[^.]+", "q_proj|v_proj", "_", "x?", "^", "$", r"\w+", "(?i:Q_PROJ)"),
    ]
)
# A part may be anything that both understand; what only one of them takes is not compared but must be refused, see below.
PATTERNS = st.lists(PIECES, min_size=1, max_size=6).map("".join) | NAMES
LISTS = st.lists(NAMES, min_size=1, max_size=4)
LAYERS = st.lists(st.integers(0, 12), max_size=3) | st.integers(0, 11) | st.none()
LAYER_PATTERNS = st.sampled_from(
    [None, "", [], "layers", "h", ["layers", "h"], ["h", "layers"], "(layers|h)", "layers|h", "l.*s", "experts"]
)


def ours(**config: Any) -> Selector:
    return Selector(parse_config(json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 16, **config}).encode()))


def named_by_peft(**config: Any) -> list[str]:
    peft = LoraConfig(r=8, lora_alpha=16, **config)
    return [m for m in MODULES if check_target_module_exists(peft, m)]


@settings(max_examples=400)
@given(LISTS, st.none() | LISTS | PATTERNS, LAYERS, LAYER_PATTERNS)
@example(["q_proj"], None, [0], None)
@example(["q_proj", "model.layers.1.self_attn.q_proj"], None, [0], "layers")
@example(["up_proj"], None, [1], None)
@example(["up_proj"], ["mlp.experts.1.up_proj"], 1, ["h", "layers"])
def test_lists_of_targets(targets: list[str], exclude: Any, layers: Any, layers_pattern: Any) -> None:
    if layers_pattern and layers is None:
        layers = [0]  # PEFT demands one with the other
    config = {
        "target_modules": targets, "exclude_modules": exclude, "layers_to_transform": layers, "layers_pattern": layers_pattern
    }  # fmt: skip
    selector = ours(**config)
    assert [m for m in MODULES if selector.names(m)] == named_by_peft(**config)


@settings(max_examples=400)
@given(PATTERNS, st.none() | LISTS | PATTERNS)
@example(r".*\.(q|v)_proj", None)
@example("q_proj", "q_proj")
def test_patterns_of_targets(pattern: str, exclude: Any) -> None:
    """A pattern is for the whole path."""
    selector = ours(target_modules=pattern, exclude_modules=exclude)
    assert [m for m in MODULES if selector.names(m)] == named_by_peft(target_modules=pattern, exclude_modules=exclude)


@settings(max_examples=400)
@given(
    st.dictionaries(PATTERNS, st.integers(1, 64), max_size=4),
    st.dictionaries(PATTERNS, st.integers(1, 64) | st.floats(0.1, 99), max_size=4),
)
@example({"q_proj": 4, "model.layers.0.self_attn.q_proj": 2}, {"self_attn.q_proj": 1})
@example({"up_proj": 3}, {"gate_up_proj|up_proj": 9})
def test_rank_and_alpha_patterns(ranks: dict[str, int], alphas: dict[str, float]) -> None:
    """The first key that matches the end of the path, cut at a dot, wins."""
    selector = ours(target_modules=["q_proj"], rank_pattern=ranks, alpha_pattern=alphas)
    for module in MODULES:
        rank = ranks.get(get_pattern_key(list(ranks), module), 8)
        alpha = alphas.get(get_pattern_key(list(alphas), module), 16)
        assert selector.rank_and_alpha(module) == (rank, alpha), module


ODD = st.text(r"q_proj.()[]{}*+?|\^$,:-0123456789dwsbAZzQE<>=!Pi", min_size=1, max_size=12)


@settings(max_examples=1500)
@given(ODD)
@example("q_proj)|(x")
@example("[[:alpha:]]_proj")
@example("q{,2}_proj")
@example(r"q_proj\z")
def test_any_pattern_is_refused_or_means_what_peft_reads(pattern: str) -> None:
    """RE2 and Python's `re` are two languages; a pattern that they read differently would give another scale silently."""
    try:
        selector = ours(target_modules=["q_proj"], alpha_pattern={pattern: 3})
    except AdapterError:
        return
    try:
        expected = [{pattern: 3}.get(get_pattern_key([pattern], m), 16) for m in MODULES]
    except Exception:  # noqa: BLE001  PEFT cannot have trained with what Python does not compile
        assume(False)
    assert [selector.rank_and_alpha(m)[1] for m in MODULES] == expected


def test_all_linear_leaves_out_embeddings_and_head() -> None:
    selector = ours(target_modules="all-linear")
    assert [m for m in MODULES if not selector.names(m)] == ["lm_head", "model.embed_tokens"]


@pytest.mark.parametrize(("rslora", "expected"), [(False, 0.75), (True, 1.5)])
def test_scaling(rslora: bool, expected: float) -> None:
    """alpha/r, or alpha/sqrt(r); by the rank and alpha of the module."""
    text = {"peft_type": "LORA", "r": 4, "lora_alpha": 3, "use_rslora": rslora, "target_modules": ["q_proj"]}
    config = parse_config(json.dumps(text).encode())
    assert config.scaling(4, 3) == expected
    assert LoraConfig(r=4, lora_alpha=3, use_rslora=rslora).use_rslora == config.rslora

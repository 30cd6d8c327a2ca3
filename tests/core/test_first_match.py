"""Patterns of ranks and alphas: plain names are looked up, with the outcome that RE2 would have."""

import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.patterns import FirstMatch

PARTS = st.sampled_from(["a", "b", "ab", ".", "\\.", "^", "$", "-", "_", "1", "(a|b)", ".*", "a+", "."])
PATTERNS = st.lists(st.lists(PARTS, min_size=1, max_size=5).map("".join), max_size=6)
MODULES = st.lists(st.sampled_from(["a", "b", "ab", ".", "-", "_", "1", "\n", "."]), min_size=1, max_size=8).map("".join)


def by_re2(patterns: list[str], module: str) -> int | None:
    return next((i for i, p in enumerate(patterns) if re2.fullmatch(rf"(?:.*\.)?(?:{p})", module)), None)


@settings(max_examples=60, deadline=None)
@given(PATTERNS, st.lists(MODULES, max_size=8))
def test_the_first_pattern_that_matches_is_found_as_re2_finds_it(patterns: list[str], modules: list[str]) -> None:
    first = FirstMatch(patterns, "rank_pattern")
    for module in modules:
        assert first.find(module) == by_re2(patterns, module), (patterns, module)


def test_names_of_all_modules_cost_a_few_lookups() -> None:
    """As an adapter with a rank of its own for each of the 882 linear modules of a model of 405 B parameters says them."""
    halves = [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ]
    modules = [f"model.layers.{layer}.{half}" for layer in range(126) for half in halves]
    first = FirstMatch(modules, "rank_pattern")
    assert [first.find(module) for module in modules] == list(range(882))
    assert first.units < 200

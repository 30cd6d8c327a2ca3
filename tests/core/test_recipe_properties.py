"""Recipes, by property: one fingerprint for one set of inputs, and nothing that is not a recipe."""

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.core.errors import PortError
from app.core.recipe import DTYPES, TOKENIZERS, Recipe, digest_of, etag, fingerprint
from app.core.strategies import STRATEGIES

RECIPES = st.builds(
    Recipe,
    strategy=st.sampled_from(sorted(STRATEGIES)),
    dtype=st.sampled_from([None, *DTYPES]),
    tokenizer=st.sampled_from(TOKENIZERS),
)
DIGESTS = st.text("01ab", min_size=1, max_size=3)
INPUTS = st.tuples(RECIPES, DIGESTS, DIGESTS)


@given(INPUTS, INPUTS)
@example((Recipe(), "a", "b"), (Recipe(), "b", "a"))
def test_fingerprints_are_equal_just_when_the_inputs_are(x: tuple[Recipe, str, str], y: tuple[Recipe, str, str]) -> None:
    assert (fingerprint(*x) == fingerprint(*y)) == (x == y)
    assert re.fullmatch("[0-9a-f]{64}", fingerprint(*x))


@given(DIGESTS, DIGESTS, st.text(max_size=9), st.text(max_size=9))
def test_etags_are_equal_just_when_fingerprint_and_path_are(one: str, two: str, path: str, other: str) -> None:
    assert (etag(one, path) == etag(two, other)) == ((one, path) == (two, other))
    assert re.fullmatch("[0-9a-f]{40}", etag(one, path))


@given(RECIPES)
def test_recipes_survive_storage(recipe: Recipe) -> None:
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@given(
    st.sampled_from(["strategy", "dtype", "tokenizer"]),
    st.text(max_size=20) | st.integers() | st.booleans() | st.lists(st.text()),
)
@example("dtype", "float64")
@example("dtype", "F32")
@example("strategy", None)
@example("strategy", "ADD")
@example("tokenizer", None)
def test_other_values_are_refused(field: str, value: Any) -> None:
    allowed = {"strategy": tuple(STRATEGIES), "dtype": tuple(DTYPES), "tokenizer": TOKENIZERS}[field]
    if value in allowed:
        return
    with pytest.raises(PortError) as refusal:
        Recipe(**{field: value})
    assert refusal.value.code == "recipe.invalid"
    assert field in str(refusal.value)


@given(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=4))
def test_digests_do_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    assert digest_of(value) == digest_of(dict(reversed(value.items())))

"""Hostile patterns: Python's `re` needs more time than anybody has for some of these; RE2 never does."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.core.errors import AdapterError
from app.core.lora.config import Selector
from app.core.patch_kinds import parse_config
from tests.support.files import write_adapter_config
from tests.support.fuzz_world import CONFIG, World
from tests.support.hostile import Refusal
from tests.support.uploads import announce

LONG = "a" * 400 + "b"
FIELDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "target_modules": lambda pattern: {"target_modules": pattern},
    "exclude_modules": lambda pattern: {"exclude_modules": pattern},
    "rank_pattern": lambda pattern: {"rank_pattern": {pattern: 2}},
    "alpha_pattern": lambda pattern: {"alpha_pattern": {pattern: 2}},
    "layers_pattern": lambda pattern: {"layers_pattern": [pattern], "layers_to_transform": [0]},
}
BACKTRACKING = [
    "(a+)+$",
    "(a|a)*c",
    "(a|aa)+$",
    "(.*a){12}",
    "(a*)*c",
    "([a-z]+)*[0-9]",
    "((a{1,5}){1,5}){1,5}c",
    "(x+x+)+y|(a+a+)+y",
]
UNUSABLE = [
    "a" * 201,
    "(?=a)a",
    "(?!a)b",
    "(?<=a)b",
    "(?<!a)b",
    r"(a)\1",
    "(?P<x>a)(?P=x)",
    "(",
    "a)",
    "[",
    "a)|(b",
    "*",
    r"\8",
    "(?>a)",
    "a++",
]


def selector(**settings: Any) -> Selector:
    text = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], **settings}
    return Selector(parse_config(json.dumps(text).encode()))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("pattern", BACKTRACKING)
def test_pattern_made_for_backtracking_is_matched_in_seconds(field: str, pattern: str) -> None:
    """A hundred module names made for it, in seconds at most."""
    chosen = selector(**FIELDS[field](pattern))
    start = time.process_time()
    for i in range(100):
        module = f"{LONG}.layers.{i}.{LONG}!"
        assert chosen.rank_and_alpha(module) == (2, 4.0)
        assert not chosen.names(module)
    assert time.process_time() - start < 4


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("pattern", UNUSABLE)
def test_unusable_patterns_are_refused(field: str, pattern: str) -> None:
    """Too long, look-around, back-references, half groups, what RE2 does not know."""
    with pytest.raises(AdapterError) as refused:
        selector(**FIELDS[field](pattern))
    assert refused.value.code == "adapter.pattern"
    assert refused.value.data["field"] == field


def test_a_pattern_that_grows_when_it_is_compiled_is_refused() -> None:
    with pytest.raises(AdapterError) as refused:
        selector(rank_pattern={"((((a{100}){100}){100}){100})": 2})
    assert refused.value.code == "adapter.pattern"


HEAVY = "([^b]{1,30}){1,30}"


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize(
    ("code", "keys"),
    [
        ("adapter.invalid_config", [f"x{i}" for i in range(20_001)]),
        ("adapter.rank", [f"x{i}" for i in range(20_000)]),
        ("adapter.pattern", [f"x{i}+" for i in range(20_000)]),
        ("adapter.pattern", [f"{HEAVY}{i}" for i in range(20_000)]),
        ("adapter.rank", [f"model.layers.{i}.self_attn.q_proj" for i in range(1, 1500)]),
        ("adapter.rank", [f"{HEAVY}{i}" for i in range(4)]),
        ("adapter.pattern", [f"{HEAVY}{i}" for i in range(20)]),
    ],
)
def test_many_patterns_are_accepted_up_to_their_limit(
    code: str, keys: list[str], field: str, base: Path, patch: Path, refusal: Refusal
) -> None:
    """As many as a model has modules are fine (here the rank disagrees); what would take minutes is refused at once."""
    settings = {"r": 9, "target_modules": ["q_proj"], field: dict.fromkeys(keys, 2)}
    write_adapter_config(patch, **settings)
    assert refusal(base, patch).code == code


@pytest.mark.parametrize("field", FIELDS)
def test_patterns_that_cost_too_much_for_the_number_of_modules_are_refused(field: str) -> None:
    """A pattern of 8,000 instructions is fine for a few modules, and takes a second for some thousand."""
    chosen = selector(**({"layers_to_transform": [0]} | FIELDS[field](HEAVY)))
    chosen.require_affordable(500)
    with pytest.raises(AdapterError) as refused:
        chosen.require_affordable(2_000)
    assert (refused.value.code, refused.value.data["field"]) == ("adapter.pattern", field)


def test_names_of_many_modules_are_affordable_for_the_largest_models() -> None:
    names = dict.fromkeys((f"model.layers.{layer}.{half}_proj" for layer in range(126) for half in "abcdefg"), 2)
    selector(rank_pattern=names, alpha_pattern=names).require_affordable(882)


def test_many_layer_patterns(base: Path, patch: Path, refusal: Refusal) -> None:
    settings = {"r": 2, "target_modules": ["q_proj"], "layers_to_transform": [0]}
    write_adapter_config(patch, **settings, layers_pattern=[f"{HEAVY}{i}" for i in range(1000)])
    assert refusal(base, patch).code == "adapter.pattern"


def test_the_longest_pattern_is_accepted() -> None:
    assert selector(target_modules="a" * 200).names("a" * 200)


@pytest.mark.parametrize("trained_on", ["unknown", "v1"])
@pytest.mark.parametrize("field", FIELDS)
def test_unusable_patterns_are_not_published(world: World, field: str, trained_on: str) -> None:
    """Also where no release is known that they could be tried on: whoever ports the patch one day could only be refused."""
    files = world.files()
    config = json.loads(files[CONFIG]) | FIELDS[field]("(?=q_proj)q_proj")
    files[CONFIG] = json.dumps(config).encode()
    patch = world.new_patch()
    listed = [announce(path, content) for path, content in files.items()]
    draft = world.acme.post(f"/patches/{patch}/versions", {"trained_on": trained_on, "files": listed}).json()
    world.send(draft, files)
    refusal = world.acme.post(f"/uploads/{draft['id']}/publish")
    assert world.check(refusal) == "adapter.pattern"
    assert refusal.json()["data"]["field"] == field
    assert world.acme.get(f"/patches/{patch}/versions").json()["items"] == []

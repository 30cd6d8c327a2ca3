"""How plug-ins are found, and what they bring into the process of another program."""

import subprocess
import sys
import tomllib
from contextlib import suppress
from importlib.metadata import EntryPoint

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.errors import DomainError
from app.domain.names import check_name, check_patch
from app.plugins.adapter_source import Base, Name
from app.plugins.refusals import RefusedError
from tests.support.paths import ROOT

CODE = """
import sys
import app.plugins.vllm_resolver
app.plugins.vllm_resolver.register()
print(sorted({name for name in sys.modules if name.startswith("app.") and not name.startswith("app.plugins")}))
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "fastapi", "sqlalchemy", "pydantic", "vllm", "re2"}))
"""


def test_the_entry_point_is_the_function() -> None:
    """vLLM calls what stands there, with nothing, in every process."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    (name, value), = declared["vllm.general_plugins"].items()  # fmt: skip
    assert name == "portllm_lora_resolver"
    assert callable(EntryPoint(name, value, "vllm.general_plugins").load())


def test_it_brings_nothing_of_the_service() -> None:
    """Only its own room and httpx; vLLM is not needed before an engine calls it with its variable set."""
    found = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, env={}, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["[]", "[]"]


WORDS = st.text("ab0.-_@/A", max_size=12)


def is_patch(text: str) -> bool:
    try:
        check_patch(*text.split("/", 1))
    except (DomainError, TypeError):
        return False
    return True


@settings(max_examples=500)
@given(st.one_of(WORDS, st.tuples(WORDS, WORDS).map("/".join)))
def test_names_are_those_of_the_registry(text: str) -> None:
    """The plug-in has its own copy of the rule, which may not drift from the registry's."""
    if "@" not in text and is_patch(text):
        assert Name.parse(text) == Name(text, None)
        assert Name.parse(f"{text}@12") == Name(text, "12")
        return
    with suppress(RefusedError):
        found = Name.parse(text)
        assert is_patch(found.patch)
        assert found.version


@settings(max_examples=300)
@given(WORDS)
def test_bases_are_those_of_the_registry(family: str) -> None:
    try:
        check_name(family, "a family")
    except DomainError:
        with pytest.raises(ValueError, match="is not base/FAMILY@RELEASE"):
            Base.parse(f"base/{family}@v2")
    else:
        assert Base.parse(f"base/{family}@v2") == Base(family, "v2")

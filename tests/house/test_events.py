"""Kinds of events: documented, and each one is recorded in the app and met in a test."""

import ast
import re
from pathlib import Path

import pytest

from app.domain.events.catalogue import CATALOGUE
from app.domain.events.reference import data_of, page

ROOT = Path(__file__).parents[2]
FORMATS = "test_event_kinds.py"  # tells how each kind is served, not that it is recorded
TESTS = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py") if p.parent.name != "house" and p.name != FORMATS)
SOURCES = [ast.parse(p.read_text()) for p in (ROOT / "app").rglob("*.py") if p.parent.name != "events"]
USED = {node.id for source in SOURCES for node in ast.walk(source) if isinstance(node, ast.Name)}


@pytest.mark.parametrize("kind", CATALOGUE)
def test_kind_is_recorded_and_met_in_a_test(kind: str) -> None:
    """A kind that nothing records is dead; one that no test meets may never be recorded."""
    assert CATALOGUE[kind].__name__ in USED
    assert f'"{kind}"' in TESTS


@pytest.mark.parametrize("kind", CATALOGUE)
def test_kind_has_a_name_and_a_sentence(kind: str) -> None:
    """Kinds are named noun.verb, as their classes are; each says in a sentence what happened, and what its subject is."""
    found = CATALOGUE[kind]
    assert re.fullmatch(r"[a-z]+\.[a-z]+", kind)
    assert found.__name__.lower() == kind.replace(".", "")
    assert (found.__doc__ or "").endswith(".")
    assert found.spec.subject
    assert all(data_of(found).values())


def test_the_reference_is_current() -> None:
    """`make docs` writes it."""
    assert (ROOT / "docs" / "events.md").read_text() == page()

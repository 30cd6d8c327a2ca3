"""Error codes: documented, and each one is raised and asserted in a test."""

import re
import string

import pytest

from app.core.errors import CATALOGUE as CORE
from app.core.findings import MEANINGS
from app.domain.errors import CATALOGUE as DOMAIN
from tests.support.paths import ROOT

TESTS = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py") if p.parent.name != "house")
CATALOGUES = {ROOT / "app" / name for name in ("core/errors.py", "core/findings.py", "domain/errors.py")}
SOURCES = "\n".join(p.read_text() for room in ("app", "migrations") for p in (ROOT / room).rglob("*.py") if p not in CATALOGUES)


@pytest.mark.parametrize("code", [*CORE, *DOMAIN, *MEANINGS])
def test_code_is_raised_and_tested(code: str) -> None:
    """A code that nobody raises is dead, one that no test meets may be unreachable."""
    assert f'"{code}"' in SOURCES
    assert f'"{code}"' in TESTS


@pytest.mark.parametrize("code", [*CORE, *DOMAIN, *MEANINGS])
def test_sentence_names_its_data_and_a_way_out(code: str) -> None:
    """Sentences end with a full stop, remedies too; the holes have names."""
    entry = (CORE | DOMAIN | MEANINGS)[code]
    assert entry.title
    assert entry.remedy.endswith(".")
    assert all(name != "" for _, name, _, _ in string.Formatter().parse(entry.detail) if name is not None)


def test_core_and_domain_share_no_code() -> None:
    """A code has one meaning."""
    assert not set(CORE) & set(DOMAIN)


def test_every_finding_is_documented() -> None:
    """Findings are made in many places; each code of theirs has its page under /problems."""
    made = set(re.findall(r'Finding\(\s*"([a-z_.]+)"', SOURCES))
    assert made
    assert made <= set(MEANINGS)

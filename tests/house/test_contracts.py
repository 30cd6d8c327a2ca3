"""Rules of the source code: layers, lazy imports, sizes of modules, transactions."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

MODULES = sorted((ROOT / "app").rglob("*.py"))
HEAVY = ("torch", "transformers", "peft", "numpy")
# What only some installations or some moments need: an upgrade of the schema, S3, an issuer of tokens, a terminal.
SELDOM = (*HEAVY, "alembic", "mako", "pygments", "rich", "httpx", "jwt", "cryptography", "boto3", "botocore")
WEB = ("fastapi", "starlette", "uvicorn")
STORES = ("sqlalchemy", "pydantic", "dbos", "psycopg", "limits")


def test_import_contracts_hold() -> None:
    """Layers, areas, purity of the lowest layers, torch in one package: see .importlinter."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("app.main", SELDOM),
        ("app.worker", SELDOM + WEB),  # one that does not listen
        ("app.cli.main", HEAVY + WEB + STORES),
        ("app.jobs.child", SELDOM + WEB + STORES + ("asyncio", "email")),  # one is started for every job
        ("app.jobs.fork_server", SELDOM + WEB + STORES + ("asyncio", "email")),
    ],
)
def test_importing_does_not_load_heavy_libraries(module: str, unwanted: tuple[str, ...]) -> None:
    """Every start pays for what is imported: processes load what they need, and the rest when it is needed."""
    code = f"import sys, {module}; print([m for m in {unwanted} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_core_is_usable_alone() -> None:
    """The offline verbs load neither the web framework nor the database."""
    code = (
        "import sys, app.core.offline; print([m for m in ('fastapi','sqlalchemy','pydantic','dbos','httpx') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_modules_are_read_in_one_sitting() -> None:
    """About 300 lines."""
    assert {p.name: n for p in MODULES if (n := len(p.read_text().splitlines())) > 330} == {}


def test_modules_say_what_they_are() -> None:
    """Each has a docstring."""
    assert [p for p in MODULES if not ast.get_docstring(ast.parse(p.read_text()))] == []


def test_package_inits_are_only_door_plates() -> None:
    """A package says what lives in it and holds no code."""
    for path in (p for p in MODULES if p.name == "__init__.py"):
        assert [type(node) for node in ast.parse(path.read_text()).body] == [ast.Expr], path


def test_only_the_unit_of_work_commits() -> None:
    """One use case is one transaction, committed at the edge."""
    commits = [p.name for p in MODULES if ".commit()" in p.read_text()]
    assert commits == ["unit_of_work.py"]


def test_no_commit_and_no_session_in_the_surfaces() -> None:
    """Surfaces ask services; they never see a session of the database. (Clients of Xet have sessions of their own.)"""
    for path in (path for surface in ("api", "hub", "http") for path in (ROOT / "app" / surface).rglob("*.py")):
        assert not re.search(r"\.session\b|\bSession\b|sessionmaker", path.read_text()), path

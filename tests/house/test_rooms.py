"""Tests lie where the code that they test lies, and share helpers by `tests.support` alone."""

import ast
from pathlib import Path

import pytest

from tests.support.paths import APP, TESTS

# Folders whose tests are about no single package of `app`.
CROSSING = {"attacks", "benchmarks", "clients_matrix", "faults", "fuzz", "house", "image", "live", "quickstart", "s3", "workers"}


def imported_tests(source: str) -> set[str]:
    """The modules of `tests` that a module imports, or imports names from."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = "tests." if node.level else ""
            found |= {f"{start}{node.module}", *(f"{start}{node.module}.{each.name}" for each in node.names)}
    return {name for name in found if name.startswith("tests.")}


MODULES = {path.relative_to(TESTS): imported_tests(path.read_text()) for path in TESTS.rglob("*.py")}


def misplaced(path: Path) -> bool:
    """Whether a test module lies neither in a package of `app` nor in a folder that crosses them.

    Tests of a module of `app` itself lie beside those folders, and are named after it.
    """
    if path.parent == Path():
        return not (APP / path.name.removeprefix("test_")).is_file()
    return path.parts[0] not in CROSSING and not (APP / path.parent / "__init__.py").is_file()


def test_modules_of_tests_lie_in_packages_of_app_or_cross_them() -> None:
    """`tests/services/ports` tests `app/services/ports`."""
    assert [str(path) for path in MODULES if path.name.startswith("test_") and misplaced(path)] == []


def test_no_module_imports_from_a_module_of_tests_or_from_a_conftest() -> None:
    """A helper of several modules lies in `tests.support`, and so does a fixture of several folders."""
    wrong = [
        (str(path), name)
        for path, names in MODULES.items()
        for name in names
        if any(part.startswith("test_") or part == "conftest" for part in name.split("."))
    ]
    assert wrong == []


def test_helpers_that_are_imported_from_another_folder_lie_in_support() -> None:
    """A folder may keep helpers that it alone uses."""
    wrong = [
        (str(path), name)
        for path, names in MODULES.items()
        for name in names
        if name.split(".")[1] not in ("support", path.parts[0])
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "source", ["from tests.core.test_xet import chunk", "from tests.core import test_xet", "import tests.core.test_xet as x"]
)
def test_import_of_a_module_of_tests_is_found(source: str) -> None:
    """However it is written."""
    assert "tests.core.test_xet" in imported_tests(source)


@pytest.mark.parametrize("path", ["registry/test_blobs.py", "services/nothing/test_blobs.py", "test_blobs.py"])
def test_module_in_a_folder_that_app_lacks_is_found(path: str) -> None:
    """Also one that lies in no folder."""
    assert misplaced(Path(path))

"""Documents name tests and modules that are there."""

import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

DOCUMENTS = ["README.md", "SECURITY.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md")))]
# A file of tests, with its folder or in the folder that was named before it in the line, with or without one of its functions;
# or a function of the file that was named before it.
TEST = re.compile(r"`(tests/(?:\w+/)*)?(test_\w+)(\.py)?(?:::(test_\w+))?`")
MODULE = re.compile(r"\bapp/[\w/]+\.py\b")


def missing_tests(line: str) -> list[str]:
    """The tests in a line of a document that are not there."""
    folder, file, found = Path(), Path(), []
    for match in TEST.finditer(line):
        folder = ROOT / match[1] if match[1] else folder
        function = match[4]
        if match[3]:
            file = folder / f"{match[2]}.py"
        else:
            function = match[2]
        if not file.is_file() or (function and f"def {function}(" not in file.read_text()):
            found.append(match[0])
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_document_names_tests_and_modules_that_exist(document: str) -> None:
    """A test that is moved or renamed is renamed there, too."""
    text = (ROOT / document).read_text()
    assert [each for line in text.splitlines() for each in missing_tests(line)] == []
    assert [each for each in MODULE.findall(text) if not (ROOT / each).is_file()] == []


@pytest.mark.parametrize(
    "line",
    [
        "`tests/nothing/test_documents.py`", "`tests/house/test_documents.py`, `test_nothing.py`",
        "`tests/house/test_documents.py::test_nothing`", "`tests/house/test_documents.py`, `test_nothing`",
    ],
)  # fmt: skip
def test_missing_test_in_a_line_is_found(line: str) -> None:
    """By its file or its function."""
    assert missing_tests(line)

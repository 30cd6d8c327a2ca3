"""The environment is read where a process begins, and handed down as values from there."""

import ast

import pytest

from tests.support.dotted_names import dotted, imported
from tests.support.paths import APP

READS = {"os.environ", "os.environb", "os.getenv", "os.getenvb"}
# Who may read it -> why. Settings are read by pydantic, for the command line.
ALLOWED = {
    "cli": "where every process of ours begins",
    "plugins/vllm_resolver.py": "where our part of a process of vLLM's begins",
    "jobs/supervise.py": "passes a few variables on to the processes of jobs",
    "jobs/fork_server.py": "sets the environment of the processes that it forks",
    "blobs/s3/client.py": "boto3's own chain, AWS_..., which boto3 reads there itself",
}


def reads(source: str) -> set[str]:
    """The ways in which a module reads the environment."""
    tree = ast.parse(source)
    names = imported(tree)
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Name))
    return {name for node in nodes if (name := dotted(node, names)) in READS}


def test_environment_is_read_by_listed_modules_only() -> None:
    """And each that is listed does."""
    found = {path.relative_to(APP).as_posix() for path in APP.rglob("*.py") if reads(path.read_text())}
    assert {name if name in ALLOWED else name.partition("/")[0] for name in found} == set(ALLOWED)


def test_modules_below_the_roots_name_no_variable_of_ours() -> None:
    """But in texts that tell an operator what to set."""
    for path in APP.rglob("*.py"):
        if path.relative_to(APP).parts[0] in ("cli", "plugins") or not reads(path.read_text()):
            continue
        constants = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        assert not [text for text in constants if isinstance(text, str) and text.startswith("PORTLLM_")], path


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.environ['A']", "import os as o\no.getenv('A')", "from os import environ\nenviron.get('A')",
        "def f():\n    from os import getenv as g\n    return g('A')",
    ],
)  # fmt: skip
def test_read_of_the_environment_is_found(source: str) -> None:
    """By whatever name it was imported."""
    assert len(reads(source)) == 1

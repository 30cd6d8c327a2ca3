"""Verbs print through `app.cli.output`, which shows text of others as text."""

import ast
from pathlib import Path

import pytest

from tests.support.paths import APP

# What runs a service prints words of its own.
OWN_WORDS = {"output.py", "main.py", "serve.py", "worker.py"}
FILES = sorted(path for path in (APP / "cli").glob("*.py") if path.name not in OWN_WORDS)
PRINTING = {"typer.echo", "typer.secho", "click.echo", "print", "sys.stdout.write", "sys.stderr.write", "rich.print"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_verb_prints_by_way_of_the_output_module(path: Path) -> None:
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    assert [ast.unparse(call) for call in calls if ast.unparse(call.func) in PRINTING] == []

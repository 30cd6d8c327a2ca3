"""Bodies of requests are read in two modules only, which bound them."""

import ast

from tests.support.paths import APP

# `Request.form` and `Request.json` read the whole body too.
READS = {"body", "stream", "form", "json"}
READERS = {"http/request_streams.py", "http/body_routes.py"}


def reads(tree: ast.AST) -> list[str]:
    """Calls of methods that read the body of something called `request`."""
    return [
        f"request.{node.func.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in READS
        if isinstance(node.func.value, ast.Name) and node.func.value.id == "request"
    ]


def test_bodies_are_read_by_their_readers_only() -> None:
    found = {
        str(path.relative_to(APP)): calls
        for path in APP.rglob("*.py")
        if path.relative_to(APP).parts[0] in ("api", "hub", "http") and (calls := reads(ast.parse(path.read_text())))
    }
    assert set(found) == READERS, found

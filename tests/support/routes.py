"""Walks the mounted routes of an application, and makes valid paths and bodies for them."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

# How to come by a token.
DOORS = ("/api/v1/oidc", "/api/v1/tokens/exchange")
# The protocol is the Hub's: bodies of its routes are in no documentation of ours.
FILE = {"oid": "ab" * 32, "size": 3}
HUB_BODIES: dict[str, Any] = {
    "POST /api/repos/create": {"name": "tone", "organization": "acme"},
    "DELETE /api/repos/delete": {"name": "tone", "organization": "acme"},
    "POST /api/validate-yaml": {"content": "# A card", "repoType": "model"},
    "POST /api/models/{owner}/{name}/tag/{revision:path}": {"tag": "walked"},
    "POST /api/models/{owner}/{name}/preupload/{revision:path}": {"files": [{"path": "README.md", "size": 3, "sample": ""}]},
    "POST /api/models/{owner}/{name}/commit/{revision:path}": {"key": "header", "value": {"summary": "nothing"}},
    "POST /{owner}/{name}.git/info/lfs/objects/batch": {"operation": "upload", "objects": [FILE]},
    "POST /api/objects/{owner}/{name}/verify": FILE,
}


def mounted_routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """(method, path) of everything that is mounted, also what is not in the schema."""
    yield from _walk(app.routes)


def _walk(mounted: Any) -> Iterator[tuple[str, str]]:
    for route in mounted:
        if hasattr(route, "effective_candidates"):  # an included router, since FastAPI 0.165
            yield from _walk(route.effective_candidates())
            continue
        path = getattr(route, "path", None)
        assert path is not None, f"a route of an unknown kind: {route!r}"
        yield from ((method, path) for method in sorted(route.methods))


def filled_path(path: str, /, **values: str) -> str:
    """A path with something in every hole."""
    names = {"owner": "acme", "patch": "tone", "alias": "prod", "number": "1", "family": "llama", "release": "v1"}
    names |= {"name": "tone", "revision": "main"} | values
    while "{" in path:
        hole = path[path.index("{") + 1 : path.index("}")]
        path = path.replace("{" + hole + "}", names.get(hole.split(":")[0], "x"))
    return path


def body_for(app: FastAPI, method: str, path: str) -> Any:
    """A body that is valid for a route, made of the examples in its documentation."""
    if body := HUB_BODIES.get(f"{method} {path}"):
        return dict(body)
    operation = app.openapi()["paths"].get(path.replace(":path}", "}"), {}).get(method.lower(), {})
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" not in content:
        return None
    return example(app, content["application/json"]["schema"])


def example(app: FastAPI, schema: dict[str, Any]) -> Any:
    """The first example of a schema, put together from those of its parts."""
    if "examples" in schema:
        return schema["examples"][0]
    if "default" in schema:
        return schema["default"]
    if "$ref" in schema:
        return example(app, app.openapi()["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return example(app, schema["anyOf"][0])
    if schema.get("type") == "array":
        return [example(app, schema["items"])]
    if "properties" in schema:
        return {name: example(app, part) for name, part in schema["properties"].items()}
    raise AssertionError(f"nothing says what this looks like: {schema}")

"""Writes the reference of events: `python -m app.domain.events.reference > docs/events.md` (or `make docs`)."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from app.domain.events.base import Event, FamilyEvent, OwnerEvent
from app.domain.events.catalogue import CATALOGUE

HEAD = """# Events

Generated from `app/domain/events` by `make docs`; do not edit.

An event is recorded in the same transaction as the change that it reports. `GET /api/v1/events` lists events by page or, for
`Accept: text/event-stream`, as a live stream; `GET /api/v1/audit` exports them with token, address and request;
`portllm events` prints them. An owner can see its own events and those of the families that it may see; an admin can see all
events, including those of the installation (owner `registry`). Later versions may add kinds and data.
"""
AUDIENCES = {
    (True, False): "the owner",
    (False, True): "every owner that may see the family",
    (True, True): "the owner, or every owner that may see the family",
}
TYPES = {str: "string", int: "integer", bool: "boolean", type(None): "null"}


def data_of(kind: type[Event]) -> dict[str, str]:
    """Returns the documentation of a kind's data, by name; a flattened mapping is listed under the name of its field."""
    hints, found = get_type_hints(kind, include_extras=True), dict[str, str]()
    for one in fields(kind):  # type: ignore[arg-type]
        if not one.metadata.get("unstored"):
            types = _types(hints[one.name])
            if one.default is None:
                types = [*types[:-1], "absent"]
            found[one.name] = ": ".join(filter(None, (" or ".join(types), _text(hints[one.name]))))
    return found


def page() -> str:
    """Returns the reference as Markdown."""
    lines = [HEAD]
    areas = dict.fromkeys(kind.__module__ for kind in CATALOGUE.values())
    for area in areas:
        lines.append(f"## {sys.modules[area].__doc__}".rstrip("."))
        for kind in (kind for kind in CATALOGUE.values() if kind.__module__ == area):
            audience = AUDIENCES[issubclass(kind, OwnerEvent), issubclass(kind, FamilyEvent)]
            lines.append(f"\n### {kind.spec.kind}\n\n{kind.__doc__}\n")
            lines.append(f"- subject: {kind.spec.subject}; seen by: {audience}")
            lines += [f"- `{name}`: {text}" for name, text in data_of(kind).items()]
        lines.append("")
    return "\n".join(lines)


def _types(hint: Any) -> list[str]:
    """Returns the JSON names of a type, one for each member of a union, with null last."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _types(inner[0])
    if origin is Sequence:
        return [f"list of {_types(inner[0])[0]}s"]
    if origin is Mapping:
        return ["flattened into the data"]
    return [TYPES[hint]] if hint in TYPES else [name for one in inner for name in _types(one)]


def _text(hint: Any) -> str:
    """Returns the text of an annotation, which may be inside a union."""
    if get_origin(hint) is Annotated:
        return str(get_args(hint)[1])
    return next(filter(None, map(_text, get_args(hint))), "")


if __name__ == "__main__":
    sys.stdout.write(page())

"""Front matter of model cards: the YAML between two lines of three dashes. All values are read as text; tags are ignored."""

import re
from collections.abc import Collection, Mapping

import yaml

from app.core.patch import CARD_FILE
from app.core.source import Source, read_range

MAX_BYTES = 64 * 2**10
MAX_YAML = 16 * 2**10
MAX_ITEMS, MAX_LENGTH = 50, 200
# The parser's time grows with the square of how deep these are: 9,000 took it over a minute.
BRACKETS, MAX_BRACKETS = "[{", 100
# What is understood; everything else stays in the file.
KEYS = ("base_model", "language", "library_name", "license", "license_link", "license_name", "pipeline_tag", "tags")

FrontMatter = Mapping[str, str | list[str]]

_FENCED = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_EMPTY = frozenset({"", "~", "null", "Null", "NULL"})


def is_readable(content: bytes) -> bool:
    """Returns whether a README.md has no front matter, or front matter with at least one understood key."""
    text = content[:MAX_BYTES].decode("utf-8", "replace")
    return not text.lstrip("\ufeff").startswith("---") or bool(read_front_matter(content))


def front_matter_of(source: Source, files: Collection[str]) -> FrontMatter:
    """Returns the front matter of the README.md among some files; empty if there is none."""
    if CARD_FILE not in files:
        return {}
    return read_front_matter(bytes(read_range(source, CARD_FILE, 0, min(source.size(CARD_FILE), MAX_BYTES))))


def read_front_matter(content: bytes) -> dict[str, str | list[str]]:
    """Returns the understood keys in the first `MAX_BYTES` of a README.md; empty if nothing can be parsed. Never raises."""
    found = _FENCED.match(content[:MAX_BYTES].decode("utf-8", "replace"))
    if found is None or len(found[1]) > MAX_YAML or sum(map(found[1].count, BRACKETS)) > MAX_BRACKETS:
        return {}
    nodes = _top_level(found[1])
    chosen = {key: _plain(nodes[key]) for key in KEYS if key in nodes}
    return {key: value for key, value in chosen.items() if value}


def _top_level(text: str) -> dict[str, yaml.Node]:
    """Parses YAML without constructing values, and returns the nodes of the outermost mapping by key.

    Tags and merge keys ("!!int x", "<<") are not resolved: the conversions would raise exceptions of many types.
    A document with aliases is rejected, because a few lines of them can expand to gigabytes.
    """
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.BaseLoader)):
            return {}
        root = yaml.compose(text, yaml.BaseLoader)
    except Exception:  # noqa: BLE001  not only YAMLError is raised, and a card must not make its repository unreadable
        return {}
    if not isinstance(root, yaml.MappingNode):
        return {}
    return {key.value: value for key, value in root.value if isinstance(key, yaml.ScalarNode)}


def _plain(node: yaml.Node) -> str | list[str]:
    if isinstance(node, yaml.SequenceNode):
        return [text for item in node.value[:MAX_ITEMS] if isinstance(item, yaml.ScalarNode) and (text := _text(item.value))]
    return _text(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _text(value: str) -> str:
    """Joins a text into one line; returns "" if it has characters that a terminal or web page would interpret."""
    line = " ".join(value.split())[:MAX_LENGTH]
    return "" if line in _EMPTY or not line.isprintable() else line

"""Front matter of model cards: the YAML between two lines of three dashes, read as text whatever its tags say."""

import re

import yaml

MAX_BYTES = 64 * 2**10
MAX_YAML = 16 * 2**10
MAX_ITEMS, MAX_LENGTH = 50, 200
# The parser's time grows with the square of how deep these are: 9,000 took it over a minute.
BRACKETS, MAX_BRACKETS = "[{", 100
# What is understood; everything else stays in the file.
KEYS = ("base_model", "language", "library_name", "license", "license_link", "license_name", "pipeline_tag", "tags")

_FENCED = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_EMPTY = frozenset({"", "~", "null", "Null", "NULL"})


def is_readable(content: bytes) -> bool:
    """Says whether a README.md has no front matter, or one of which something is understood."""
    text = content[:MAX_BYTES].decode("utf-8", "replace")
    return not text.lstrip("\ufeff").startswith("---") or bool(read_front_matter(content))


def read_front_matter(content: bytes) -> dict[str, str | list[str]]:
    """Returns the understood keys of a README.md, of its first `MAX_BYTES`; empty where nothing can be read. Never raises."""
    found = _FENCED.match(content[:MAX_BYTES].decode("utf-8", "replace"))
    if found is None or len(found[1]) > MAX_YAML or sum(map(found[1].count, BRACKETS)) > MAX_BRACKETS:
        return {}
    nodes = _top_level(found[1])
    chosen = {key: _plain(nodes[key]) for key in KEYS if key in nodes}
    return {key: value for key, value in chosen.items() if value}


def _top_level(text: str) -> dict[str, yaml.Node]:
    """Parses YAML without constructing values, and returns the nodes of the outermost mapping by key.

    Tags and merges ("!!int x", "<<") are not resolved: resolving them runs conversions that raise exceptions of many types.
    A document with aliases is not read: a few lines of them can stand for gigabytes.
    """
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.BaseLoader)):
            return {}
        root = yaml.compose(text, yaml.BaseLoader)
    except Exception:  # noqa: BLE001  the scanner raises more than YAMLError, and a card must not make its repository unreadable
        return {}
    if not isinstance(root, yaml.MappingNode):
        return {}
    return {key.value: value for key, value in root.value if isinstance(key, yaml.ScalarNode)}


def _plain(node: yaml.Node) -> str | list[str]:
    if isinstance(node, yaml.SequenceNode):
        return [text for item in node.value[:MAX_ITEMS] if isinstance(item, yaml.ScalarNode) and (text := _text(item.value))]
    return _text(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _text(value: str) -> str:
    """Puts a text on one line; returns "" for one with characters that a terminal or a page would take for more than text."""
    line = " ".join(value.split())[:MAX_LENGTH]
    return "" if line in _EMPTY or not line.isprintable() else line

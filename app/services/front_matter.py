"""What a model card says of itself: the YAML between two lines of three dashes, as far as it can be trusted to be small."""

import re
from collections.abc import Mapping
from typing import Any

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
    """Whether a README.md has no front matter, or one that is understood."""
    text = content[:MAX_BYTES].decode("utf-8", "replace")
    return not text.lstrip("\ufeff").startswith("---") or bool(read_front_matter(content))


def read_front_matter(content: bytes) -> dict[str, str | list[str]]:
    """The understood keys of a README.md, of its first `MAX_BYTES`; empty where there is nothing that can be read."""
    found = _FENCED.match(content[:MAX_BYTES].decode("utf-8", "replace"))
    if found is None or len(found[1]) > MAX_YAML or sum(map(found[1].count, BRACKETS)) > MAX_BRACKETS:
        return {}
    try:
        # References are not read: with a few lines of them, a page can stand for gigabytes.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(found[1], yaml.BaseLoader)):
            return {}
        loaded = yaml.safe_load(found[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    if not isinstance(loaded, Mapping):
        return {}
    chosen = {key: _plain(loaded[key]) for key in KEYS if key in loaded}
    return {key: value for key, value in chosen.items() if value}


def _plain(value: Any) -> str | list[str]:
    if isinstance(value, list):
        return [text for item in value[:MAX_ITEMS] if isinstance(item, str) and (text := _text(item))]
    return _text(value) if isinstance(value, str) else ""


def _text(value: str) -> str:
    """One line of it, without what a terminal or a page would take for more than text."""
    line = " ".join(value.split())[:MAX_LENGTH]
    return "" if line in _EMPTY or not line.isprintable() else line

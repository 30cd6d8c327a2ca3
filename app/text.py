"""Text of others, shown as text: what a terminal, a log or a reader would take for more is replaced by visible escapes."""

import json
import re
from unicodedata import category

# Control and format characters (escape sequences, bidirectional overrides, invisible ones), surrogates, line and paragraph ends.
_CONTROL = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# What no description, name or reason needs: control characters but tabs and line ends, and what reorders the text around it.
_REFUSED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]|\r(?!\n)")


def visible(text: str, keep: str = "") -> str:
    r"""Replaces control characters by their escapes, such as "\x1b" or "\u202e", but those of `keep`."""
    if text.isprintable():
        return text
    return "".join(c if c in keep or category(c) not in _CONTROL else c.encode("unicode_escape").decode() for c in text)


def visible_json(text: str) -> str:
    """Replaces control characters in a JSON document by JSON's own escapes, which mean the same; line ends stay."""
    if text.isprintable():
        return text
    return "".join(c if c == "\n" or category(c) not in _CONTROL else json.dumps(c)[1:-1] for c in text)


def refused_character(text: str) -> str | None:
    r"""Returns the first character that has no place in a text for people, as an escape; line ends and tabs are fine."""
    found = _REFUSED.search(text)
    return found[0].encode("unicode_escape").decode() if found else None

"""Makes untrusted text safe to show: characters that a terminal, log or reader would interpret become visible escapes."""

import json
import re
from unicodedata import category

# Control and format characters (escape sequences, bidirectional overrides, invisible characters), surrogates, line and
# paragraph separators.
_CONTROL = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Characters that no description, name or reason needs: control characters other than tabs and line ends, and characters that
# reorder the text around them.
_REFUSED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]|\r(?!\n)")


def visible(text: str, keep: str = "") -> str:
    r"""Replaces control characters with escapes such as "\x1b" or "\u202e", except those in `keep`."""
    if text.isprintable():
        return text
    return "".join(c if c in keep or category(c) not in _CONTROL else c.encode("unicode_escape").decode() for c in text)


def visible_json(text: str) -> str:
    """Replaces control characters in a JSON document with equivalent JSON escapes; line ends stay."""
    if text.isprintable():
        return text
    return "".join(c if c == "\n" or category(c) not in _CONTROL else json.dumps(c)[1:-1] for c in text)


def refused_character(text: str) -> str | None:
    r"""Returns the first character that is not allowed in human-readable text, as an escape; None if all are allowed."""
    found = _REFUSED.search(text)
    return found[0].encode("unicode_escape").decode() if found else None

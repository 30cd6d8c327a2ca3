"""Parses JSON objects from uploaded files, within bounds that let every later reader and writer process them too."""

import json
from typing import Any

# The configurations of published models are nested less than 10 levels deep. Python's own limit depends on how much stack the
# caller has left, so without a fixed bound one caller could accept a document that another one cannot read.
MAX_NESTING = 50


def parse_object(text: bytes) -> dict[str, Any]:
    """Parses a JSON object.

    Raises:
        ValueError: the text is not a JSON object, or it cannot be serialised again. The message says why, in at most 200
            characters.
    """
    try:
        value = json.loads(text.decode())  # given bytes, Python would also accept UTF-16 and byte order marks
        # Python accepts NaN and lone surrogates ("\ud800"), which are not JSON and cannot be serialised again.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_NESTING} deep") from None
    except ValueError as error:
        raise ValueError(str(error)[:200]) from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    if _is_deeper(value, MAX_NESTING):
        raise ValueError(f"it is nested more than {MAX_NESTING} deep")
    return value


def _is_deeper(value: dict[str, Any], limit: int) -> bool:
    """Returns whether an object is nested deeper than a limit; iterates instead of recursing."""
    level: list[Any] = [value]
    for _ in range(limit):
        children = (child for node in level for child in (node.values() if isinstance(node, dict) else node))
        level = [child for child in children if isinstance(child, (dict, list))]
    return bool(level)

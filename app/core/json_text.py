"""JSON objects in files that somebody sent, parsed within bounds that still hold wherever they are read or written later."""

import json
from typing import Any

# The configurations of published models are less than 10 deep. Python's parser and writer stop at the depth that the caller's
# stack leaves them, so that what one caller took another one could not read.
MAX_NESTING = 50


def parse_object(text: bytes) -> dict[str, Any]:
    """Parses a JSON object.

    Raises:
        ValueError: it is none, or it cannot be written again; the message says why, in 200 characters at most.
    """
    try:
        value = json.loads(text.decode())  # as text: of bytes, Python reads UTF-16 and marks too, which other readers do not
        # Python reads NaN and half characters ("\ud800") that are not JSON and cannot be written again.
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
    """Counts levels without recursion."""
    level: list[Any] = [value]
    for _ in range(limit):
        children = (child for node in level for child in (node.values() if isinstance(node, dict) else node))
        level = [child for child in children if isinstance(child, (dict, list))]
    return bool(level)

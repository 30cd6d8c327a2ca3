"""The files of a patch as PEFT's save_pretrained names them, and the fields of adapter_config.json as plain values."""

from collections.abc import Mapping
from typing import Any

from app.core.errors import AdapterError
from app.core.json_text import parse_object

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 2**20
MAX_LIST = 20_000
MAX_NUMBER = 10**9


def load_config(text: bytes) -> dict[str, Any]:
    """Parses the JSON of adapter_config.json without validating its content.

    Raises:
        AdapterError: adapter.invalid_config.
    """
    if len(text) > MAX_CONFIG_BYTES:
        raise invalid_config(f"it has {len(text)} bytes; the limit is {MAX_CONFIG_BYTES}")
    try:
        return parse_object(text)
    except ValueError as error:
        raise invalid_config(str(error)) from None


def invalid_config(reason: str) -> AdapterError:
    return AdapterError("adapter.invalid_config", reason=reason)


def integer(value: Any, field: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise invalid_config(f"{field} must be a whole number from {low} to {high}")
    return value


def number(value: Any, field: str) -> float:
    # Not isfinite: it makes a float of a whole number, and JSON has whole numbers that do not fit. NaN is not below anything.
    if type(value) not in (int, float) or not abs(value) <= MAX_NUMBER:
        raise invalid_config(f"{field} must be a number of at most {MAX_NUMBER:,}")
    return float(value)


def boolean(value: Any, field: str) -> bool:
    if not isinstance(value, bool):
        raise invalid_config(f"{field} must be true or false")
    return value


def optional_text(value: Any, field: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise invalid_config(f"{field} must be text")
    return value


def mapping(raw: Mapping[str, Any], field: str) -> dict[str, Any]:
    value = raw.get(field) or {}
    if not isinstance(value, dict) or len(value) > MAX_LIST:
        raise invalid_config(f"{field} must map patterns to numbers")
    return value


def names(value: Any, field: str) -> str | tuple[str, ...] | None:
    if value is None or isinstance(value, str):
        return value or None
    if not isinstance(value, list) or len(value) > MAX_LIST or not all(isinstance(v, str) and v for v in value):
        raise invalid_config(f"{field} must be a pattern or a list of names")
    return tuple(value)

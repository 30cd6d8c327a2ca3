"""Encodes orders and results of jobs as JSON: frozen dataclasses in, frozen dataclasses out, and nothing else.

A dataclass becomes an object with the name of its class as "type", so that a union of dataclasses needs no other tag. Decoding is
strict: unknown or missing fields and values of another type are refused.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

TYPE = "type"

Value = TypeVar("Value")


class CodecError(ValueError):
    """The JSON does not describe a value of the expected type; the argument says where and why."""


def encode(value: Any) -> Any:
    """Returns a dataclass and all values in it as plain JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return {TYPE: type(value).__name__, **{field.name: encode(getattr(value, field.name)) for field in fields(value)}}
    if isinstance(value, Mapping):
        return {key: encode(held) for key, held in value.items()}
    return [encode(held) for held in value] if isinstance(value, list | tuple) else value


def decode(expected: type[Value], data: Any, where: str = "") -> Value:
    """Returns the value that JSON describes.

    Args:
        expected: a dataclass, a NamedTuple, a scalar, `Any`, or a union, tuple, list or mapping of those.
        data: what `json.loads` returned.
        where: the path from the outermost value, for the error message.

    Raises:
        CodecError: the JSON describes no value of that type.
    """
    return _decode(expected, data, where or getattr(expected, "__name__", str(expected)))


def contains(value: Any, kind: type) -> bool:
    """Returns whether a value, or anything in it, is an instance of `kind`."""
    if isinstance(value, kind):
        return True
    if is_dataclass(value):
        return any(contains(getattr(value, field.name), kind) for field in fields(value))
    if isinstance(value, Mapping):
        return any(contains(held, kind) for held in value.values())
    return isinstance(value, list | tuple) and any(contains(held, kind) for held in value)


def _decode(expected: Any, data: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if expected is Any:
        return data
    if origin in (typing.Union, types.UnionType):
        return _decode(_chosen(arguments, data, where), data, where)
    if is_dataclass(expected):
        return _decode_fields(expected, data, where)
    if hasattr(expected, "_fields"):
        return _decode_tuple(expected, data, where)
    if origin in (tuple, list):
        of = arguments[0]
        return origin(_decode(of, held, f"{where}[{n}]") for n, held in enumerate(_instance(list, data, where)))
    if origin in (dict, Mapping):
        return {key: _decode(arguments[1], held, f"{where}.{key}") for key, held in _instance(dict, data, where).items()}
    return _instance(expected, data, where)


def _chosen(alternatives: tuple[Any, ...], data: Any, where: str) -> Any:
    """Returns the member of a union that the JSON describes: a dataclass by its tag, everything else by its type in JSON."""
    tag = data.get(TYPE) if isinstance(data, dict) else None
    for one in alternatives:
        in_json = list if typing.get_origin(one) is tuple else typing.get_origin(one) or one
        if (
            getattr(one, "__name__", None) == tag
            if is_dataclass(one)
            else isinstance(data, dict if in_json is Mapping else in_json)
        ):
            return one
    raise CodecError(f"{where} is none of {', '.join(str(getattr(one, '__name__', one)) for one in alternatives)}")


def _decode_fields(expected: Any, data: Any, where: str) -> Any:
    given = dict(_instance(dict, data, where))
    if given.pop(TYPE, None) != expected.__name__:
        raise CodecError(f"{where} is not a {expected.__name__}")
    hints = _hints(expected)
    if given.keys() != hints.keys():
        raise CodecError(f"{where}: unexpected or missing fields {sorted(given.keys() ^ hints.keys())}")
    return expected(**{name: _decode(hints[name], held, f"{where}.{name}") for name, held in given.items()})


def _decode_tuple(expected: Any, data: Any, where: str) -> Any:
    hints, given = _hints(expected), _instance(list, data, where)
    if not len(hints) - len(expected._field_defaults) <= len(given) <= len(hints):
        raise CodecError(f"{where} has {len(given)} values, not those of a {expected.__name__}")
    return expected(*(_decode(hint, held, where) for hint, held in zip(hints.values(), given, strict=False)))


@cache
def _hints(of: Any) -> dict[str, Any]:
    return typing.get_type_hints(of)


def _instance(expected: Any, data: Any, where: str) -> Any:
    # In JSON, true is not a number, and an integer is also a valid float.
    allowed = (int, float) if expected is float else expected
    if not isinstance(data, allowed) or (isinstance(data, bool) and expected is not bool):
        raise CodecError(f"{where} is a {type(data).__name__}, not a {expected.__name__}")
    return data

"""Patterns that came from outside, matched by RE2.

Python's `re` backtracks: one hostile `rank_pattern` kept it busy for more than 20 s with the interpreter locked. RE2 runs
in time linear in the text, and refuses what it cannot (look-around, back-references).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import re2

from app.core.errors import AdapterError

MAX_PATTERN_LENGTH = 200
# Character classes by name, and repetitions without a lower bound: Python reads both otherwise than RE2.
AMBIGUOUS = ("[:", "{,")


# The maximum number of instructions in all patterns of one setting, which bounds the time to compile them. A name with a prefix
# needs about 80. Published adapters have a few patterns, or list every module by its plain name, which needs none (`FirstMatch`).
MAX_PROGRAM_SIZE = 40_000
# The maximum cost of matching all patterns of a configuration against all modules of a release. A unit is one instruction run on
# one module's name, 0.1 us at most, so 0.8 s in all. For the 882 linear modules of a model with 405 B parameters this allows 70
# patterns of 80 instructions; for the 224 modules of an 8 B model, 270 patterns.
MAX_MATCHING = 8_000_000
# The fixed cost of a match in addition to its instructions, and the cost of a look-up among plain names, in the same unit.
MATCH_UNITS, LOOKUP_UNITS = 50, 8
# Plain names as they occur in rank_pattern: with optional "^" and "$", and dots that match any character unless escaped.
_PLAIN = re.compile(r"(\^?)((?:[A-Za-z0-9_-]|\\?\.)+)\$?")


class Pattern:
    """A compiled RE2 pattern.

    Raises:
        AdapterError: adapter.pattern, when the pattern is too long or not RE2.
    """

    def __init__(self, pattern: str, field: str, template: str = "{}") -> None:
        if len(pattern) > MAX_PATTERN_LENGTH:
            raise _refusal(pattern[:40] + "...", field, f"it has {len(pattern)} characters")
        options = re2.Options()
        options.log_errors = False
        options.max_mem = 1 << 20
        if found := next((t for t in AMBIGUOUS if t in pattern), None):
            raise _refusal(pattern, field, f"{found!r} means one thing to RE2 and another to Python")
        try:
            re2.compile(pattern, options=options)  # alone too: half a group would change what the template means
            self._compiled = re2.compile(template.format(pattern), options=options)
        except re2.error as error:
            raise _refusal(pattern, field, _text(error)) from None

    @property
    def program_size(self) -> int:
        """Instructions that the pattern compiled to."""
        return int(self._compiled.programsize)

    def fullmatch(self, text: str) -> bool:
        return self._compiled.fullmatch(text) is not None

    def first_group(self, text: str) -> str | None:
        """The last group of a match at the start of the text, or None."""
        match = self._compiled.match(text)
        return match.group(match.re.groups) if match else None


class FirstMatch:
    """Finds the first pattern that matches the path of a module or its last parts, in the order that PEFT uses.

    An adapter with a rank for every module has as many patterns as modules, and matching each against each would take seconds.
    Patterns that are plain names are therefore looked up in a table.

    Raises:
        AdapterError: adapter.pattern, also if the patterns together are too complex.
    """

    def __init__(self, patterns: Sequence[str], field: str) -> None:
        self._names: dict[tuple[bool, int, tuple[int, ...]], dict[str, int]] = {}
        others = dict[int, str]()
        for index, pattern in enumerate(patterns):
            plain = _PLAIN.fullmatch(pattern) if len(pattern) <= MAX_PATTERN_LENGTH else None
            if plain is None:
                others[index] = pattern
                continue
            text = plain[2].replace("\\.", "\\")  # an escaped dot becomes one character, so that positions match the name's
            dots = tuple(at for at, character in enumerate(text) if character == ".")
            self._names.setdefault((bool(plain[1]), len(text), dots), {}).setdefault(text.replace("\\", "."), index)
        compiled = compile_all(others.values(), field, r"(?:.*\.)?(?:{})")
        self._others = list(zip(others, compiled, strict=True))

    @property
    def units(self) -> int:
        """The maximum cost of matching one module, in units of `MAX_MATCHING`."""
        return LOOKUP_UNITS * len(self._names) + sum(MATCH_UNITS + pattern.program_size for _, pattern in self._others)

    def find(self, module: str) -> int | None:
        """Returns the index of the first matching pattern; None if none matches."""
        found = [index for index in self._lookups(module) if index is not None]
        first = min(found, default=None)
        for index, pattern in self._others:
            if first is not None and index > first:
                break
            if pattern.fullmatch(module):
                return index
        return first

    def _lookups(self, module: str) -> Iterator[int | None]:
        if "\n" in module:  # a dot does not match a line end
            return
        for (whole, length, dots), names in self._names.items():
            start = len(module) - length
            if start == 0 or (start > 0 and not whole and module[start - 1] == "."):
                text = list(module[start:])
                for at in dots:
                    text[at] = "."
                yield names.get("".join(text))


def compile_all(patterns: Iterable[str], field: str, template: str = "{}") -> Iterator[Pattern]:
    """Compiles the patterns of one setting.

    Raises:
        AdapterError: adapter.pattern, also when they are too complex together.
    """
    size = 0
    for pattern in patterns:
        compiled = Pattern(pattern, field, template)
        size += compiled.program_size
        if size > MAX_PROGRAM_SIZE:
            raise _refusal(pattern, field, "the patterns are too many or too complex together")
        yield compiled


def require_affordable(units: Mapping[str, int], modules: int) -> None:
    """Refuses patterns that would take too long to match against the modules of a release.

    Args:
        units: the cost of matching one module, by setting.
        modules: the number of modules.

    Raises:
        AdapterError: adapter.pattern, which names the most expensive setting.
    """
    if modules * sum(units.values()) > MAX_MATCHING:
        field = max(units, key=lambda name: units[name])
        raise _refusal("*", field, f"the patterns are too many or too complex for {modules} modules")


def _refusal(pattern: str, field: str, reason: str) -> AdapterError:
    return AdapterError("adapter.pattern", pattern=pattern, field=field, reason=reason, limit=MAX_PATTERN_LENGTH)


def _text(error: Exception) -> str:
    reason = error.args[0] if error.args else "not a pattern"
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)

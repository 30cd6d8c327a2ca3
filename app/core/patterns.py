"""Patterns that came from outside, matched by RE2.

Python's `re` backtracks: one hostile `rank_pattern` kept it busy for more than 20 s with the interpreter locked. RE2 runs
in time linear in the text, and refuses what it cannot (look-around, back-references).
"""

from collections.abc import Iterable, Iterator

import re2

from app.core.errors import AdapterError

MAX_PATTERN_LENGTH = 200
# Character classes by name, and repetitions without a lower bound: Python reads both otherwise than RE2.
AMBIGUOUS = ("[:", "{,")


# Instructions of all patterns of one setting together: a name and its prefix need about 80, and matching costs at most this
# times the length of a module's name. 20,000 patterns like ([^b]{1,30}){1,30} took minutes and gigabytes.
MAX_PROGRAM_SIZE = 200_000


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


def _refusal(pattern: str, field: str, reason: str) -> AdapterError:
    return AdapterError("adapter.pattern", pattern=pattern, field=field, reason=reason, limit=MAX_PATTERN_LENGTH)


def _text(error: Exception) -> str:
    reason = error.args[0] if error.args else "not a pattern"
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)

"""What the fault tests found, for the table at the end of a soak: rounds, failures, seconds, and orphans that the sweep removed.

Orphans are counted for a fault: its operations are under way together, and of most that is left behind nobody can say whose
it is.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

TOGETHER = "(all of them)"


@dataclass
class Line:
    """One fault met by one operation on one backend.

    Attributes:
        seconds: of its rounds, from the preparation to the check after it.
    """

    rounds: int = 0
    failures: int = 0
    seconds: float = 0.0


LINES: dict[tuple[str, str, str], Line] = {}
SWEPT: dict[tuple[str, str], Counter[str]] = {}


@contextmanager
def one_round(fault: str, operations: Sequence[str], backend: str) -> Iterator[None]:
    """Counts a round for each operation, and a failure if the block raises."""
    lines = [LINES.setdefault((fault, operation, backend), Line()) for operation in operations]
    began = time.monotonic()
    for found in lines:
        found.rounds += 1
    try:
        yield
    except BaseException:
        for found in lines:
            found.failures += 1
        raise
    finally:
        for found in lines:
            found.seconds += time.monotonic() - began


def swept(fault: str, backend: str, found: Mapping[str, int]) -> None:
    """Counts what the sweep after the rounds of a fault removed, by kind."""
    SWEPT.setdefault((fault, backend), Counter()).update(found)


def table() -> list[str]:
    """The table as Markdown; nothing where nothing was counted."""
    if not LINES:
        return []
    head = ("fault", "operation", "backend", "rounds", "failures", "seconds", "orphans swept")
    rows = [head]
    for fault, backend in dict.fromkeys((key[0], key[2]) for key in LINES):
        for key, line in LINES.items():
            if (key[0], key[2]) == (fault, backend):
                rows.append((*key, str(line.rounds), str(line.failures), f"{line.seconds:.0f}", ""))
        if (fault, backend) in SWEPT:
            rows.append((fault, TOGETHER, backend, "", "", "", _orphans(SWEPT[fault, backend])))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [" | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return [f"| {line} |" for line in lines]


def _orphans(found: Counter[str]) -> str:
    """The sum, and of what."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()) if count)
    return f"{found.total()} ({kinds})" if kinds else "0"

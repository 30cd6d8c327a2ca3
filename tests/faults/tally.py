"""What the fault tests found, for the table at the end of a soak: rounds, failures, and orphans that the sweep removed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Line:
    """One fault met by one operation on one backend."""

    rounds: int = 0
    failures: int = 0
    orphans: int = 0


LINES: dict[tuple[str, str, str], Line] = {}


def line(fault: str, operation: str, backend: str) -> Line:
    return LINES.setdefault((fault, operation, backend), Line())


@contextmanager
def one_round(fault: str, operations: Sequence[str], backend: str) -> Iterator[None]:
    """Counts a round for each operation, and a failure if the block raises."""
    lines = [line(fault, operation, backend) for operation in operations]
    for found in lines:
        found.rounds += 1
    try:
        yield
    except BaseException:
        for found in lines:
            found.failures += 1
        raise


def table() -> list[str]:
    """The lines of the table; none where nothing was counted."""
    if not LINES:
        return []
    head = ("fault", "operation", "backend", "rounds", "failures", "orphans swept")
    rows = [head, *((*key, str(x.rounds), str(x.failures), str(x.orphans)) for key, x in LINES.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]

"""A list of digests that need not fit in memory: a temporary SQLite file that ends with the process."""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

CACHE_KIB = 8192


@dataclass(frozen=True)
class Named:
    """Bytes that a row names; `size` in bytes where it says so."""

    digest: str
    size: int | None
    subject: str


class Scratch:
    """Every digest that is named, with the sizes that it should have and who named it first."""

    def __init__(self) -> None:
        # The empty name is a file in the temporary directory, which SQLite writes only once its cache is full.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._database.execute(
            "CREATE TABLE named (digest TEXT, size INTEGER, subject TEXT, PRIMARY KEY (digest, size)) WITHOUT ROWID"
        )
        self._database.execute("BEGIN")

    def add(self, named: Iterable[Named]) -> None:
        rows = ((n.digest, -1 if n.size is None else n.size, n.subject) for n in named)
        self._database.executemany("INSERT OR IGNORE INTO named VALUES (?, ?, ?)", rows)

    def names(self, digest: str) -> bool:
        return self._database.execute("SELECT 1 FROM named WHERE digest = ?", (digest,)).fetchone() is not None

    def totals(self) -> tuple[int, int]:
        """How many there are, and how many bytes they should be together."""
        count, size = self._database.execute("SELECT count(*), coalesce(sum(max(size, 0)), 0) FROM named").fetchone()
        return int(count), int(size)

    def __iter__(self) -> Iterator[Named]:
        """By digest."""
        for digest, size, subject in self._database.execute("SELECT digest, size, subject FROM named ORDER BY digest, size"):
            yield Named(digest, None if size < 0 else size, subject)

    def close(self) -> None:
        self._database.close()

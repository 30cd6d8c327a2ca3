"""A sorted index of paths, which finds everything below a directory without scanning all paths."""

from bisect import bisect_left
from collections.abc import Iterable


class PathIndex:
    """A sorted set of paths; a look-up is a binary search, O(log n)."""

    def __init__(self, paths: Iterable[str] = ()) -> None:
        self._paths = sorted(set(paths))

    def add(self, path: str) -> None:
        at = bisect_left(self._paths, path)
        if self._paths[at : at + 1] != [path]:
            self._paths.insert(at, path)

    def discard(self, path: str) -> None:
        at = bisect_left(self._paths, path)
        if self._paths[at : at + 1] == [path]:
            del self._paths[at]

    def below(self, directory: str) -> list[str]:
        """Returns the paths within a directory, at any depth."""
        first, last = self._range(directory)
        return self._paths[first:last]

    def discard_below(self, directory: str) -> list[str]:
        """Removes and returns the paths within a directory, at any depth."""
        first, last = self._range(directory)
        gone = self._paths[first:last]
        del self._paths[first:last]
        return gone

    def _range(self, directory: str) -> tuple[int, int]:
        # "0" is the character after "/".
        return bisect_left(self._paths, f"{directory}/"), bisect_left(self._paths, f"{directory}0")

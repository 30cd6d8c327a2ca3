"""What is open for reading, by version, so that it can be taken away."""

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from app.core.revocable_source import RevocableSource
from app.core.source import Source


class OpenSource:
    """One source that is open, and what is to be done beside closing it when it is taken away."""

    def __init__(self, source: Source) -> None:
        self.source = RevocableSource(source)
        self._lock, self._revoked = threading.Lock(), False
        self._actions: list[Callable[[], None]] = []

    def on_revoked(self, action: Callable[[], None]) -> None:
        """Calls `action` when it is taken away; at once where it was."""
        with self._lock:
            self._actions.append(action)
            late = self._revoked
        if late:
            action()

    def revoke(self) -> None:
        with self._lock:
            self._revoked, actions = True, list(self._actions)
        self.source.revoke()  # first: what an action drops must not be read again
        for action in actions:
            action()


class OpenSources:
    """All that is open in this process; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, set[OpenSource]] = {}

    @contextmanager
    def take(self, version: str, source: Source) -> Iterator[OpenSource]:
        """Registers a source until the block ends, and closes it then."""
        opening = OpenSource(source)
        with self._lock:
            self._open.setdefault(version, set()).add(opening)
        try:
            yield opening
        finally:
            with self._lock:
                held = self._open[version]
                held.discard(opening)
                if not held:
                    del self._open[version]
            opening.source.close()

    def versions(self) -> set[str]:
        with self._lock:
            return set(self._open)

    def revoke(self, versions: Collection[str]) -> None:
        with self._lock:
            chosen = [opening for version in versions for opening in self._open.get(version, ())]
        for opening in chosen:
            opening.revoke()

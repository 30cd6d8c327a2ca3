"""The announcement that a process is about to stop."""

import threading


class Draining:
    """An event that is set once, when the process begins to drain; any thread may set it and wait for it."""

    def __init__(self) -> None:
        self._begun = threading.Event()

    @property
    def is_set(self) -> bool:
        """Whether the process drains."""
        return self._begun.is_set()

    def begin(self) -> None:
        """Announces the stop. Calling it again has no effect."""
        self._begun.set()

    def wait_in_thread(self, seconds: float) -> bool:
        """Waits until the process begins to drain, for some seconds at most; returns whether it does."""
        return self._begun.wait(seconds)

"""Why an adapter is not handed out, and until when one waits for it."""

import time


class RefusedError(Exception):
    """An adapter is not handed out.

    Attributes:
        code: a stable name; one of the registry's (`/problems/CODE`), or `resolver.*` for what is found here.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class BusyError(RefusedError):
    """The registry cannot answer now; it may a moment later."""


class Deadline:
    """A moment after which nobody waits any more."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._end = seconds, time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds that are left.

        Raises:
            RefusedError: resolver.timeout.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise RefusedError("resolver.timeout", f"It was not there within {self._seconds:g} seconds.")
        return left

"""Probes of storage: whether bytes can be read at present."""

from collections.abc import Callable

from app.domain.errors import DomainError
from app.services.background import in_thread
from app.single_flight import OverdueError, SingleFlight

FRESH_SECONDS = 2.0
# Clients of the Hub protocol wait ten seconds for the head of an answer, and try again where it says 503.
LIMIT_SECONDS = 4.0
REMEMBERED = 256


class StorageProbes:
    """Caches the last successful probe for each key; while a probe hangs, no second one is started."""

    def __init__(self) -> None:
        self._probes = SingleFlight[str, None](REMEMBERED, FRESH_SECONDS, in_thread)

    def require(self, key: str, probe: Callable[[], None]) -> None:
        """Returns if a probe has succeeded recently; otherwise runs it.

        Raises:
            DomainError: storage.unavailable, if the probe takes too long.
            Exception: the error of the probe, if it failed.
        """
        try:
            self._probes.get(key, probe, LIMIT_SECONDS)
        except OverdueError:
            raise DomainError("storage.unavailable", reason=f"it gave no byte within {LIMIT_SECONDS:.0f} s") from None

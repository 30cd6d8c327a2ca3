"""How often the store of bytes failed in this process, by the code that was told; for metrics."""

import threading
from collections import Counter

from app.domain.errors import DomainError

CODES = ("storage.unavailable", "storage.refused", "server.storage_full")
_lock = threading.Lock()
_counts: Counter[str] = Counter()


def noted(error: DomainError) -> DomainError:
    """Counts a failure that is about to be raised."""
    with _lock:
        _counts[error.code] += 1
    return error


def counts() -> dict[str, int]:
    """Failures since the process began, of every code that there is."""
    with _lock:
        return {code: _counts[code] for code in CODES}

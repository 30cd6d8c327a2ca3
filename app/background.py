"""What a process does beside answering, every few seconds until it stops."""

import logging
import threading
from collections.abc import Callable

from app.services.operations import purges
from app.services.unit_of_work import UnitsOfWork

RECONCILE_SECONDS = 5.0
# Within so many seconds, and the time of one query, a process lets go of what another purged.
REVOKE_SECONDS = 5.0

log = logging.getLogger("portllm.background")


def every(seconds: float, stopping: threading.Event, name: str, act: Callable[[], object]) -> None:
    """Acts in a thread of its own, at once and again and again; what fails is told, and tried again in a while.

    Args:
        seconds: between two times.
        stopping: set when it is to end.
        name: of the thread, and of the chore in the log.
        act: does it once.
    """

    def run() -> None:
        while not stopping.is_set():
            try:
                act()
            except Exception:  # whatever it is, there is a next time
                log.exception("%s failed", name)
            stopping.wait(seconds)

    threading.Thread(target=run, name=name, daemon=True).start()


def let_go_of_purged(registry: UnitsOfWork) -> None:
    """Ends what this process reads of versions that were purged elsewhere, and for clients whose right to it was withdrawn."""
    library = registry.tools.artifacts
    if library.held() or library.downloads:
        with registry.read() as uow:
            purges.revoke_purged(uow)
            library.downloads.end_withdrawn(uow.session)

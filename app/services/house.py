"""Keeping house: what one service process at a time does every few seconds, and what it does every hour."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from app.core.errors import CoreError
from app.domain.errors import DomainError
from app.services import jobs, rates, sweep
from app.services.uow import UnitOfWork

SWEEP_SECONDS = 3600.0
# So many bytes are looked at again and removed in one transaction, in which nobody else may name bytes.
BATCH = 100
TRIES, PAUSE_SECONDS = 40, 0.25

Begin = Callable[[], AbstractContextManager[UnitOfWork]]

log = logging.getLogger("portllm.house")


class House:
    """Reconciles subjects with their jobs each time it is asked to, and sweeps at first and every hour.

    Args:
        read: opens a unit of work that reads.
        write: opens one that writes.
    """

    def __init__(self, read: Begin, write: Begin) -> None:
        self._read, self._write = read, write
        self._next_sweep = time.monotonic()
        self._told = set[str]()

    def keep(self) -> None:
        """What is due now; whoever calls this is the only one who does."""
        with self._write() as uow:
            jobs.reconcile(uow, self._told)
        if time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + SWEEP_SECONDS
            swept = sweep_all(self._read, self._write)
            if any(swept.values()):
                log.info("swept %s", ", ".join(f"{count} {what}" for what, count in swept.items()))


def sweep_all(read: Begin, write: Begin) -> dict[str, int]:
    """Removes what was abandoned; returns how many of each were removed.

    Only what changes rows is done in transactions that write: on SQLite everybody else waits for those.
    """
    with write() as uow:
        drafts = sweep.drafts(uow)
        rates.forget(uow)
    with read() as uow:
        staged, unwritten, unnamed = sweep.staged(uow), sweep.unwritten(uow), sweep.unnamed(uow)
    parts = sum(_drop_parts(write, ident) for ident in unwritten)
    blobs = sum(_remove(write, unnamed[start : start + BATCH]) for start in range(0, len(unnamed), BATCH))
    return {"drafts": drafts, "staged": staged, "parts": parts, "blobs": blobs}


def _drop_parts(write: Begin, ident: str) -> int:
    try:
        with write() as uow:
            return sweep.parts(uow, ident)
    except (CoreError, DomainError) as error:  # somebody's own bucket, perhaps gone: no reason to leave everything else
        log.warning("parts of %s could not be dropped: %s", ident, error)
        return 0


def _remove(write: Begin, digests: Sequence[str]) -> int:
    for _ in range(TRIES):
        with write() as uow:
            removed = sweep.remove(uow, digests)
        if removed is not None:
            return removed
        time.sleep(PAUSE_SECONDS)  # bytes are named in moments; those that take longer keep theirs for another hour
    return 0

"""Maintenance: periodic work of one service process at a time, every few seconds and every hour."""

import logging
import time

from app.core.errors import CoreError
from app.db import patches
from app.domain.errors import DomainError
from app.services.access import rate_limits, token_exchange
from app.services.catalog import reverification
from app.services.hubview.hub_commits import CatchUp
from app.services.jobs import jobs, unserved_queues
from app.services.operations import abandoned_uploads, erasure, garbage_collection, retention
from app.services.operations.retention import Retention
from app.services.unit_of_work import Begin, UnitsOfWork

SWEEP_SECONDS = 3600.0
# An erasure that could not be finished is tried again after this, and ever more seldom.
ERASE_SECONDS, ERASE_LONGEST = 5.0, 600.0

log = logging.getLogger("portllm.maintenance")


class Maintenance:
    """Periodic maintenance: reconciles subjects with their jobs at each call; cleans up at the first call and then every hour.

    Args:
        read: opens a read-only unit of work.
        write: opens a unit of work that writes.
        registry: the registry, if pending erasures are to be resumed.
        sampled_bytes: how many bytes of releases by reference are hashed again each hour.
        keep: how long finished rows are kept; forever by default.
        patience: seconds after which waiting jobs without a live worker are reported.
    """

    def __init__(
        self, read: Begin, write: Begin, registry: UnitsOfWork | None = None, sampled_bytes: int = 0,
        keep: Retention | None = None, patience: float = 0.0,
    ) -> None:  # fmt: skip
        self._read, self._write, self._registry, self._sampled_bytes = read, write, registry, sampled_bytes
        self._retention, self._patience = keep or Retention(), patience
        self._next_sample = time.monotonic() + SWEEP_SECONDS
        self._erasures = dict[str, tuple[float, float]]()  # when one is tried again, and how long after that
        self._next_sweep = time.monotonic()
        self._reported = set[str]()
        self._commits = CatchUp(registry) if registry else None

    def run_due(self) -> None:
        """Does the work that is due now. Only one process at a time may call it."""
        jobs.reconcile(self._read, self._write, self._reported)
        unserved_queues.watch(self._read, self._write, self._patience)
        if self._registry:
            self._finish_erasures(self._registry)
        if self._commits:
            self._commits.go_on()
        if time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + SWEEP_SECONDS
            swept = sweep_all(self._read, self._write)
            deleted = retention.prune(self._read, self._write, self._retention)
            for verb, counts in (("swept", swept), ("deleted by age", deleted)):
                if any(counts.values()):
                    log.info("%s: %s", verb, ", ".join(f"{count} {what}" for what, count in counts.items()))
        if time.monotonic() >= self._next_sample:
            self._next_sample = time.monotonic() + SWEEP_SECONDS
            log.info("%d bytes of releases were hashed anew", reverification.sample(self._read, self._write, self._sampled_bytes))

    def _finish_erasures(self, registry: UnitsOfWork) -> None:
        with self._read() as uow:
            waiting = patches.unerased(uow.session)
        self._erasures = {ident: self._erasures.get(ident, (0.0, ERASE_SECONDS)) for ident in waiting}
        for ident, (due, pause) in self._erasures.items():
            if time.monotonic() < due:
                continue
            try:
                erasure.erase(registry, ident)
            except (CoreError, DomainError) as error:
                log.warning("the erasure of %s could not be finished: %s", ident, error)
            self._erasures[ident] = (time.monotonic() + pause, min(2 * pause, ERASE_LONGEST))


def sweep_all(read: Begin, write: Begin) -> dict[str, int]:
    """Removes what was abandoned; returns how many of each were removed.

    Only what changes rows is done in transactions that write: on SQLite everybody else waits for those.
    """
    with write() as uow:
        drafts, pushed = abandoned_uploads.drafts(uow), abandoned_uploads.pushed(uow)
        rate_limits.forget(uow)
        token_exchange.forget(uow)
    with read() as uow:
        staged, unwritten = abandoned_uploads.staged(uow), abandoned_uploads.unwritten(uow)
    parts = sum(_drop_parts(write, ident) for ident in unwritten)
    blobs = garbage_collection.collect(read, write).removed
    return {"drafts": drafts, "pushes": pushed, "staged": staged, "parts": parts, "blobs": blobs}


def _drop_parts(write: Begin, ident: str) -> int:
    try:
        with write() as uow:
            return abandoned_uploads.parts(uow, ident)
    except (CoreError, DomainError) as error:  # somebody's own bucket, perhaps gone: no reason to leave everything else
        log.warning("parts of %s could not be dropped: %s", ident, error)
        return 0

"""Records the commits of everything that Hub clients can see, ahead of requests, because a list of refs names each commit.

A commit lists the files of a revision, so creating one reads some small files and plans a merged model. This happens when a
version is published and when a port becomes ready; the service's catch-up covers older subjects, and a request that needs a
missing commit creates it.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import get_args

from app.core.errors import CoreError
from app.core.recipe import Recipe
from app.db import commits, ports, uncommitted, versions
from app.db import releases as release_rows
from app.db.ports import Port
from app.domain.errors import DomainError
from app.services.hubview import snapshots
from app.services.hubview.repositories import Adapter, BaseModel, Kind, Merged, Thing
from app.services.hubview.snapshots import Drawn
from app.services.unit_of_work import UnitOfWork, UnitsOfWork, run_with_retry

Subject = tuple[Kind, str]

KINDS: tuple[Kind, ...] = get_args(Kind)

# How many subjects are processed between the transaction that reads and the one that writes.
BATCH = 100
# In an object store, each file costs a round trip.
READERS = 8
AMONG = 500
# Errors that concern the bytes of one subject, not the storage as a whole.
UNREADABLE = ("blob.missing", "release.damaged")
CATCH_UP_SECONDS, CATCH_UP_PAUSE, RETRY_SECONDS = 2.0, 3600.0, 60.0

log = logging.getLogger("portllm.hub")


def names(uow: UnitOfWork, subjects: Sequence[Subject]) -> dict[Subject, str]:
    """Returns the commit ids of those subjects whose commits are recorded."""
    found = dict[Subject, str]()
    for kind in sorted({kind for kind, _ in subjects}):
        idents = [ident for own, ident in subjects if own == kind]
        for start in range(0, len(idents), AMONG):
            for ident, name in commits.names(uow.session, kind, idents[start : start + AMONG]).items():
                found[kind, ident] = name
    return found


def write(registry: UnitsOfWork, subjects: Sequence[Subject], seconds: float) -> int:
    """Records commits for those subjects that have none; returns how many were left when the time was up.

    Subjects whose bytes can no longer be read get no commit. Must be called outside any transaction.

    Raises:
        DomainError: the storage as a whole failed.
    """
    if not subjects:
        return 0
    ends = time.monotonic() + seconds
    with registry.read() as uow:
        known = names(uow, subjects)
    missing = [subject for subject in dict.fromkeys(subjects) if subject not in known]
    for start in range(0, len(missing), BATCH):
        if time.monotonic() >= ends:
            return len(missing) - start
        with registry.read() as uow:
            things = list(_load(uow, missing[start : start + BATCH]))
        if drawn := _draw(registry, things):
            run_with_retry(registry.write, partial(snapshots.keep_all, drawn=drawn))
    return 0


def write_ahead(registry: UnitsOfWork, subjects: Sequence[Subject]) -> None:
    """Records commits at the end of a request whose work is done. Failures are logged, and the catch-up retries later."""
    try:
        write(registry, subjects, CATCH_UP_SECONDS)
    except (CoreError, DomainError) as error:
        log.warning("commits of %s are not written yet: %s", subjects, error)


def of_port(port: Port) -> list[Subject]:
    """Returns the subjects of a port that Hub clients see: adapter and merged model, if it is ready and its recipe canonical."""
    if port.state != "ready" or Recipe.from_dict(port.recipe) != Recipe():
        return []
    return [("adapter", port.id), ("merged", port.id)]


class CatchUp:
    """Records commits that nothing else recorded: of subjects from earlier versions of the service, and of imports.

    It scans everything visible, a part at each call, and starts over an hour after it has finished.
    """

    def __init__(self, registry: UnitsOfWork) -> None:
        self._registry = registry
        self._due, self._rest, self._after = 0.0, list(KINDS), ""

    def go_on(self) -> None:
        """Processes batches for `CATCH_UP_SECONDS`, at least one if a scan is due."""
        ends = time.monotonic() + CATCH_UP_SECONDS
        while time.monotonic() >= self._due:
            self._write_batch()
            if time.monotonic() >= ends:
                return

    def _write_batch(self) -> None:
        kind = self._rest[0]
        with self._registry.read() as uow:
            idents = uncommitted.page(uow.session, kind, self._after, BATCH)
        try:
            write(self._registry, [(kind, ident) for ident in idents], math.inf)
        except (CoreError, DomainError) as error:  # most likely the store is unreachable
            log.warning("commits of Hub clients are written later: %s", error)
            self._due = time.monotonic() + RETRY_SECONDS
            return
        self._advance(idents)

    def _advance(self, idents: Sequence[str]) -> None:
        if len(idents) == BATCH:
            self._after = idents[-1]
            return
        self._rest, self._after = self._rest[1:], ""
        if not self._rest:
            self._rest, self._due = list(KINDS), time.monotonic() + CATCH_UP_PAUSE


def _draw(registry: UnitsOfWork, things: Sequence[BaseModel | Adapter | Merged]) -> list[Drawn]:
    def draw(thing: Thing) -> Drawn | None:
        try:
            return snapshots.draw(registry.tools.artifacts, thing)
        except CoreError:  # its bytes have changed, so it gets no commit
            return None
        except DomainError as error:
            if error.code in UNREADABLE:
                return None
            raise

    if len(things) == 1:
        found = [draw(things[0])]
    else:
        with ThreadPoolExecutor(READERS, thread_name_prefix="hub-commits") as pool:
            found = list(pool.map(draw, things))
    return [drawn for drawn in found if drawn is not None]


def _load(uow: UnitOfWork, subjects: Sequence[Subject]) -> Iterator[BaseModel | Adapter | Merged]:
    def idents(*kinds: Kind) -> list[str]:
        return [ident for kind, ident in subjects if kind in kinds]

    yield from map(BaseModel, release_rows.among(uow.session, idents("base")))
    yield from map(Adapter, versions.among(uow.session, idents("patch")))
    found = {port.id: port for port in ports.among(uow.session, idents("adapter", "merged"))}
    for kind, ident in subjects:
        if port := found.get(ident):
            yield Merged(port) if kind == "merged" else Adapter(port.version, port)

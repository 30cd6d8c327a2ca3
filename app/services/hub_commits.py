"""Writes down the commits of what Hub clients can see, before anybody asks: a list of refs names the commit of each.

A commit names the files of a revision, so some small files are read for it, and a merged model is planned. That is done when a
version is published and when a port becomes ready, by the catch-up of the service for what was there before, and else by the
request that asks.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol, get_args

from app.core.errors import CoreError
from app.core.recipe import Recipe
from app.db import commits, ports, uncommitted, versions
from app.db import releases as release_rows
from app.db.ports import Port
from app.domain.errors import DomainError
from app.services import snapshots
from app.services.repositories import Adapter, Base, Kind, Merged, Thing
from app.services.snapshots import Drawn
from app.services.uow import Tools, UnitOfWork, settle

Subject = tuple[Kind, str]

KINDS: tuple[Kind, ...] = get_args(Kind)

# So many are looked at between a transaction that reads and one that writes.
BATCH = 100
# Where the files lie in an object store, each of them is a round trip.
READERS = 8
AMONG = 500
# Refusals that concern the bytes of one subject, not the storage as a whole.
UNREADABLE = ("blob.missing", "release.damaged")
CATCH_UP_SECONDS, CATCH_UP_PAUSE, RETRY_SECONDS = 2.0, 3600.0, 60.0

log = logging.getLogger("portllm.hub")


class Registry(Protocol):
    """A registry that runs."""

    tools: Tools

    def read(self) -> AbstractContextManager[UnitOfWork]:
        """A unit of work that only reads."""

    def write(self) -> AbstractContextManager[UnitOfWork]:
        """A unit of work that may write; commits at its end."""


def names(uow: UnitOfWork, subjects: Sequence[Subject]) -> dict[Subject, str]:
    """Commit ids of those subjects whose commits are written down."""
    found = dict[Subject, str]()
    for kind in sorted({kind for kind, _ in subjects}):
        idents = [ident for own, ident in subjects if own == kind]
        for start in range(0, len(idents), AMONG):
            for ident, name in commits.names(uow.session, kind, idents[start : start + AMONG]).items():
                found[kind, ident] = name
    return found


def write(registry: Registry, subjects: Sequence[Subject], seconds: float) -> int:
    """Writes down the commits of those subjects that have none; returns how many were not looked at in the time.

    Subjects whose bytes cannot be read any more get none. To be called outside of any transaction.

    Raises:
        DomainError: what the storage answers.
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
            settle(registry.write, partial(snapshots.keep_all, drawn=drawn))
    return 0


def write_ahead(registry: Registry, subjects: Sequence[Subject]) -> None:
    """The same for a request that has done its work: what fails is logged, and done later."""
    try:
        write(registry, subjects, CATCH_UP_SECONDS)
    except (CoreError, DomainError) as error:
        log.warning("commits of %s are not written yet: %s", subjects, error)


def of_port(port: Port) -> list[Subject]:
    """What Hub clients see of a port: an adapter and a merged model, once it is ready and by the canonical recipe."""
    if port.state != "ready" or Recipe.from_dict(port.recipe) != Recipe():
        return []
    return [("adapter", port.id), ("merged", port.id)]


class CatchUp:
    """Writes down what nothing else has written: what an earlier version of the service left, and what was imported.

    It goes through all that is visible, a part at each call, and again an hour after its end.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._due, self._rest, self._after = 0.0, list(KINDS), ""

    def go_on(self) -> None:
        """Writes batches for `CATCH_UP_SECONDS`, at least one where it is due."""
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
        except (CoreError, DomainError) as error:  # a store that is away, most likely
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


def _draw(registry: Registry, things: Sequence[Base | Adapter | Merged]) -> list[Drawn]:
    def draw(thing: Thing) -> Drawn | None:
        try:
            return snapshots.draw(registry.tools.library, thing)
        except CoreError:  # its bytes are not what they were: it has no commit
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


def _load(uow: UnitOfWork, subjects: Sequence[Subject]) -> Iterator[Base | Adapter | Merged]:
    def idents(*kinds: Kind) -> list[str]:
        return [ident for kind, ident in subjects if kind in kinds]

    yield from map(Base, release_rows.among(uow.session, idents("base")))
    yield from map(Adapter, versions.among(uow.session, idents("patch")))
    found = {port.id: port for port in ports.among(uow.session, idents("adapter", "merged"))}
    for kind, ident in subjects:
        if port := found.get(ident):
            yield Merged(port) if kind == "merged" else Adapter(port.version, port)

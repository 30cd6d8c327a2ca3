"""Goes through everything, a page at a time, and says what it finds.

Rows are read in short transactions and judged outside of them: a check may take hours, and neither a snapshot nor a
connection should be held that long. What looks wrong is read and judged once more, because somebody may have been at work
on it: only what is found both times is told.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, Protocol

from sqlalchemy.orm import Session

from app.db import aliases, commits, materialisations, patches, ports, pushes, release_downloads, releases
from app.services.operations.digest_spill import Named, Scratch
from app.services.operations.fsck import rows, stored
from app.services.operations.fsck.stored import UnreadableError
from app.services.operations.fsck.stuck import stuck
from app.services.operations.fsck.targets import Targets, reference
from app.services.operations.fsck.troubles import Found, Trouble
from app.services.unit_of_work import UnitsOfWork

PAGE = 200

Judge = Callable[[Any], Iterator[Found]]


class Tell(Protocol):
    """Told of progress: what is looked at, how much of it is done, and how much there is (None: nobody knows)."""

    def __call__(self, what: str, done: int, total: int | None, /) -> None: ...


class _Noun:
    """How rows of one kind are read.

    Args:
        name: for the progress.
        count, page, get: of `app.db`: how many there are, those below an id (newest first), and one.
    """

    def __init__(
        self,
        name: str,
        count: Callable[[Session], int],
        page: Callable[[Session, str | None, int], Sequence[Any]],
        get: Callable[[Session, str], Any],
    ) -> None:
        self.name, self.count, self.page, self.get = name, count, page, get


RELEASES = _Noun(
    "releases", releases.count, lambda s, after, limit: releases.list_page(s, None, None, after, limit), releases.get
)
VERSIONS = _Noun("versions", patches.count_versions, patches.all_versions, patches.version)
ALIASES = _Noun("aliases", aliases.count, aliases.everything, aliases.get)
PORTS = _Noun("ports", ports.count, ports.everything, ports.get)
COMMITS = _Noun("commits", commits.count, commits.everything, commits.get)
MATERIALISATIONS = _Noun("materialisations", materialisations.count, materialisations.everything, materialisations.get)


def check(registry: UnitsOfWork, quick: bool, tell: Tell) -> Iterator[Found]:
    """Checks everything and changes nothing. Bytes and rows that appear or disappear meanwhile are not reported.

    Args:
        registry: the registry to check.
        quick: compare only sizes and identities; otherwise every byte is read and hashed, in the store once for each digest.
        tell: progress callback.

    Raises:
        DomainError: database or store do not answer.
    """
    tools, began = registry.tools, time.monotonic()
    targets = Targets(registry)
    with closing(Scratch()) as scratch, closing(Scratch()) as buried:

        def release(row: Any) -> Iterator[Found]:
            try:
                scratch.add(stored.named_by_release(tools.artifacts, row))
            except UnreadableError as error:
                yield error.trouble
            else:
                yield from reference(tools, row, quick)

        def version(row: Any) -> Iterator[Found]:
            scratch.add(stored.named_by_version(row))
            buried.add(stored.buried_with(row))
            yield from rows.version(tools, row)

        yield from _walk(registry, RELEASES, release, tell)
        yield from _walk(registry, VERSIONS, version, tell)
        yield from _walk(registry, ALIASES, lambda row: rows.alias(tools, row), tell)
        yield from _walk(registry, PORTS, lambda row: rows.port(tools, row), tell)
        yield from _walk(registry, COMMITS, rows.commit, tell)
        yield from _walk(registry, MATERIALISATIONS, targets.look, tell)
        yield from stuck(registry)
        yield from _bytes(registry, scratch, quick, tell)
        with registry.read() as uow:  # what has arrived of them is named by nothing else yet, and may be hours old
            scratch.add(
                Named(digest, None, "a release that is being pulled") for digest in release_downloads.digests(uow.session)
            )
            scratch.add(Named(digest, None, "something that was pushed") for digest in pushes.digests(uow.session))
        tell("store", 0, None)
        yield from stored.unnamed(tools, scratch, buried, began)
        yield from _staged(registry)


def _walk(registry: UnitsOfWork, noun: _Noun, judge: Judge, tell: Tell) -> Iterator[Found]:
    with registry.read() as uow:
        total, done, after = noun.count(uow.session), 0, None
    while True:
        tell(noun.name, done, max(total, done))
        with registry.read() as uow:
            page = noun.page(uow.session, after, PAGE)
        for row in page[:PAGE]:
            first = list(judge(row))
            if any(isinstance(found, Trouble) for found in first):
                first = _again(registry, noun, judge, row.id, first)
            yield from first
        done += len(page[:PAGE])
        if len(page) <= PAGE:
            tell(noun.name, done, done)
            return
        after = page[PAGE - 1].id


def _again(registry: UnitsOfWork, noun: _Noun, judge: Judge, ident: str, first: list[Found]) -> list[Found]:
    """What is still so when the row is read anew."""
    with registry.read() as uow:
        row = noun.get(uow.session, ident)
    return [found for found in judge(row) if found in first] if row is not None else []


def _bytes(registry: UnitsOfWork, scratch: Scratch, quick: bool, tell: Tell) -> Iterator[Found]:
    """Every digest that is named, once; progress in digests or, where they are read, in bytes."""
    (count, size), done, read = scratch.totals(), 0, None
    what, total = ("digests", count) if quick else ("bytes", size)
    for found in scratch:
        tell(what, done, total)
        troubles = list(stored.sizes(registry.tools, found))
        if not troubles and not quick and found.digest != read:
            troubles, read = list(stored.content(registry.tools, found)), found.digest
        yield from troubles
        done += 1 if quick else found.size or 0
    tell(what, total, total)


def _staged(registry: UnitsOfWork) -> Iterator[Found]:
    idle = stored.idle_uploads(registry.tools)
    while some := list(islice(idle, PAGE)):
        with registry.read() as uow:
            states = patches.states_of(uow.session, [upload for upload, _ in some])
        for upload, old in some:
            yield from stored.staged(upload, old, states.get(upload))

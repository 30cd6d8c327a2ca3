"""Goes through everything, a page at a time, and says what it finds.

Rows are read in short transactions and judged outside of them: a check may take hours, and neither a snapshot nor a
connection should be held that long. What looks wrong is read and judged once more, because somebody may have been at work
on it: only what is found both times is told.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.db import aliases, commits, materialisations, patches, ports, releases
from app.services.operations.fsck import rows, stored
from app.services.operations.fsck.stored import Tell
from app.services.operations.fsck.stuck import stuck
from app.services.operations.fsck.targets import Targets, reference
from app.services.operations.fsck.troubles import Found, Trouble, Unseen
from app.services.unit_of_work import UnitsOfWork

PAGE = 200

Judge = Callable[[Any], Iterator[Found]]


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
    """Checks everything, without changing anything. Bytes and rows that appear or disappear during the check are not reported.

    Args:
        registry: the registry to check.
        quick: compare only sizes and file identities; otherwise all bytes are read and hashed, once for each digest in the store.
        tell: progress callback.

    Raises:
        DomainError: the database or the store does not answer.
    """
    tools, began = registry.tools, time.monotonic()
    targets = Targets(registry)

    def release(row: Any) -> Iterator[Found]:
        unreadable = list(stored.manifest(tools.artifacts, row))
        yield from unreadable or reference(tools, row, quick)

    yield from _walk(registry, RELEASES, release, tell)
    yield from _walk(registry, VERSIONS, lambda row: rows.version(tools, row), tell)
    yield from _walk(registry, ALIASES, lambda row: rows.alias(tools, row), tell)
    yield from _walk(registry, PORTS, lambda row: rows.port(tools, row), tell)
    yield from _walk(registry, COMMITS, rows.commit, tell)
    yield from _walk(registry, MATERIALISATIONS, targets.look, tell)
    yield from stuck(registry)
    complete = True
    for trouble in stored.references(registry, tell):
        complete &= trouble.code == "reference.stale"
        yield trouble
    yield from stored.blobs(registry, quick, tell)
    tell("store", 0, None)
    if complete:
        yield from stored.unreferenced(registry, began)
    else:
        yield Unseen("bytes that nothing references", "They cannot be told from others while references are missing.")
    yield from stored.staged(registry)


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

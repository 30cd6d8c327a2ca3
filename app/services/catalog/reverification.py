"""Reverification of releases by reference: a random sample is hashed again each hour, and everything at an operator's request.

The identity of a file (size, times, inode, file system) reveals almost every change and is cheap to check. Only hashing finds
the rest: bytes that were written past the file system, or while the clock was set back.
"""

import hashlib
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from app.core.errors import CoreError
from app.core.manifest import Manifest
from app.core.source import FileStat, Source, stat_of
from app.db import releases as rows
from app.db.releases import Release
from app.domain.errors import DomainError
from app.domain.events.families import ReleaseDamaged, ReleaseReaccepted
from app.domain.principal import INSTALLATION, Principal
from app.services.catalog.ingestion import keep_stats
from app.services.catalog.releases import touch
from app.services.unit_of_work import Begin

CHUNK = 4 * 2**20

Tell = Callable[[int], object]  # progress callback: gets the number of bytes read since the last call

log = logging.getLogger("portllm.reverification")


@dataclass(frozen=True)
class SampledRange:
    """A range of a file with a known digest: a tensor, or a whole small file."""

    path: str
    offset: int
    length: int
    digest: str


def sample(
    read: Begin, write: Begin, budget: int, shuffle: Callable[[list[SampledRange] | list[str]], None] = random.shuffle
) -> int:
    """Hashes randomly chosen pieces of releases by reference; marks a release as damaged, and so unreadable, if bytes differ.

    Args:
        read, write: open units of work; none is open while bytes are read.
        budget: the maximum number of bytes to read; pieces larger than this are never sampled.
        shuffle: shuffles a list in place.

    Returns:
        How many bytes were read.
    """
    with read() as uow:
        waiting = list(rows.by_reference(uow.session))
    shuffle(waiting)
    left = budget
    for ident in waiting:
        if left <= 0:
            break
        with read() as uow:
            release, library = rows.get(uow.session, ident), uow.tools.artifacts
        if release is None or release.damaged_path is not None:
            continue
        try:
            pieces = list(_pieces(library.manifest(release)))
            shuffle(pieces)
            with library.open_release(release) as source:
                left -= _check(write, release, source, pieces, left)
        except (CoreError, DomainError) as error:  # readers of the release get the same error
            log.warning("%s/%s could not be verified: %s", release.family.name, release.name, error)
    return budget - left


@dataclass
class Outcome:
    """The result of reaccepting one release: the paths whose bytes differ or that cannot be read; empty if all is well."""

    release: str
    wrong: list[str] = field(default_factory=list)
    reason: str = ""

    @property
    def accepted(self) -> bool:
        return not self.wrong and not self.reason


def reaccept(read: Begin, write: Begin, tell: Tell = lambda _: None) -> Iterator[Outcome]:
    """Hashes all files of all releases by reference; records their current identities if the bytes are the registered ones.

    Args:
        read, write: open units of work; none is open while bytes are read.
        tell: progress callback.
    """
    with read() as uow:
        idents = rows.by_reference(uow.session)
    for ident in idents:
        with read() as uow:
            release, library = rows.get(uow.session, ident), uow.tools.artifacts
        if release is None:
            continue
        outcome, stats = Outcome(f"{release.family.name}/{release.name}"), dict[str, FileStat]()
        try:
            digests = library.manifest(release).file_digests
            for path, digest in digests.items():
                with closing(library.open_directory(release)) as source:  # reopened for each file: there may be thousands
                    before = stat_of(source.descriptor(path))
                    found = _hash(source, SampledRange(path, 0, before.size, digest), tell)
                    if found != digest or stat_of(source.descriptor(path)) != before:
                        outcome.wrong.append(path)
                    stats[path] = before
        except (CoreError, DomainError) as error:
            outcome.reason = str(error)
        if outcome.accepted:
            _record_accepted(write, release, stats)
        yield outcome


def total_bytes(read: Begin) -> int:
    """Returns how many bytes `reaccept` will read."""
    with read() as uow:
        found = [rows.get(uow.session, ident) for ident in rows.by_reference(uow.session)]
    return sum(release.total_bytes or 0 for release in found if release)


def _check(write: Begin, release: Release, source: Source, pieces: Sequence[SampledRange], budget: int) -> int:
    """Hashes pieces until the budget is used up or a digest differs; returns how many bytes were read."""
    used = 0
    for piece in pieces:
        if piece.length > budget - used:
            continue
        used += piece.length
        if _hash(source, piece) != piece.digest:
            _record_damaged(write, release, piece.path)
            break
    return used


def _pieces(manifest: Manifest) -> Iterator[SampledRange]:
    shards = manifest.checkpoint.shards
    for path, header in shards.items():
        for tensor in header.tensors:
            yield SampledRange(path, header.data_start + tensor.begin, tensor.nbytes, manifest.tensor_digests[tensor.name])
    for path, digest in manifest.file_digests.items():
        if path not in shards:
            yield SampledRange(path, 0, manifest.checkpoint.files[path], digest)


def _hash(source: Source, piece: SampledRange, tell: Tell = lambda _: None) -> str:
    hashed, buffer = hashlib.sha256(), memoryview(bytearray(min(CHUNK, piece.length)))
    for start in range(0, piece.length, CHUNK):
        part = buffer[: min(CHUNK, piece.length - start)]
        source.read_into(piece.path, piece.offset + start, part)
        hashed.update(part)
        tell(len(part))
    return hashed.hexdigest()


def _record_damaged(write: Begin, release: Release, path: str) -> None:
    with write() as uow:
        row = rows.locked(uow.session, release.id)
        if row is None or row.damaged_path is not None or (row.stats, row.identities) != (release.stats, release.identities):
            return
        row.damaged_path = path
        touch(row)
        uow.family_event(ReleaseDamaged(path=path), _MAINTENANCE, row.family.name, row.name)
    log.error(
        "%s of %s/%s does not hold the bytes that were registered: it is not read any more", path, row.family.name, row.name
    )


def _record_accepted(write: Begin, release: Release, stats: dict[str, FileStat]) -> None:
    with write() as uow:
        row = rows.locked(uow.session, release.id)
        if row is None or row.manifest != release.manifest or row.source != release.source or row.copied:
            return
        before = row.stats, row.identities, row.damaged_path
        keep_stats(row, stats)
        row.damaged_path = None
        if before != (row.stats, row.identities, row.damaged_path):
            touch(row)
            uow.family_event(ReleaseReaccepted(files=len(stats)), _MAINTENANCE, row.family.name, row.name)


_MAINTENANCE = Principal(INSTALLATION, frozenset({"admin"}), "maintenance")

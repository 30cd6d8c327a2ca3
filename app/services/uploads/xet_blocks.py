"""Xet blocks of a client's session, and the files that are put together from them.

Blocks mean something in the session that sent them, and nowhere else: what one client sent is never found by another.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import lru_cache

from app.core.errors import XetError
from app.core.source import Source, read_range
from app.core.xet import MAX_BLOCK_BYTES, Block, ShardFile, check_effort
from app.db import pushes as rows
from app.db.pushes import XORB, PushedObject
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.domain.repositories import Repository
from app.services.access.quotas import open_account
from app.services.tools import Tools
from app.services.unit_of_work import UnitOfWork, UnitsOfWork, run_with_retry
from app.services.uploads import pushed_objects, reservations
from app.services.uploads.pushed_objects import PUSHED, StagedFile, new_upload, owner_of, require_push

HEADERS = "1"  # the name under which the headers of a block's chunks are staged beside it
OPEN_BLOCKS = 64


def has_block(uow: UnitOfWork, principal: Principal, repository: Repository, session: str, name: str) -> bool:
    """Whether a session sent a block already."""
    require_push(principal, repository)
    return bool(rows.blocks(uow.session, repository.full_name, session, [name]))


def begin_block(uow: UnitOfWork, principal: Principal, repository: Repository, session: str, name: str, size: int) -> str | None:
    """Reserves the bytes of a block before they are read.

    Args:
        uow: the transaction.
        principal: the sender.
        repository: the target repository.
        session: the client's session.
        name: the name of the block.
        size: the size in bytes that the client declared; 0 if it declared none.

    Returns:
        The reservation's id; None if the session already sent the block.

    Raises:
        DomainError: quota.exceeded, and the errors of `require_push`.
    """
    if has_block(uow, principal, repository, session, name):
        return None
    return reservations.reserve(uow, principal, repository, min(size or MAX_BLOCK_BYTES, MAX_BLOCK_BYTES))


def keep_block(
    uow: UnitOfWork, principal: Principal, repository: Repository, session: str, name: str, size: int, staged: str, reserved: str
) -> None:
    """Takes a block that was staged and scanned, with its headers beside it.

    Raises:
        DomainError: upload.unknown, quota.exceeded, and what `require_push` raises.
    """
    require_push(principal, repository)
    reservations.record(uow, reserved, XORB, name, size, staged, session)


def rebuild(
    units: UnitsOfWork, principal: Principal, repository: Repository, session: str, files: Sequence[ShardFile], largest: int
) -> None:
    """Reconstructs the files of a shard, stages each, and records it if its sha256 matches the shard.

    Memory is bounded: a few megabytes, and the headers of some blocks. Nothing is unpacked before its size has been checked.

    Args:
        registry: the registry.
        principal: who sends.
        repository: to what.
        session: the client's, whose blocks they are made of.
        files: what the shard says.
        largest: how many bytes all of them may have together.

    Raises:
        XetError: xet.shard, xet.block, xet.digest.
        DomainError: request.too_large, quota.exceeded, and what `require_push` raises.
    """
    total = sum(file.size for file in files)
    if total > largest:
        raise DomainError("request.too_large", what="the upload", size=total, limit=largest)
    names = sorted({term.block for file in files for term in file.terms()})
    found, reserved, missing = run_with_retry(units.write, lambda uow: _begin(uow, principal, repository, session, files, names))
    try:
        _put_together(units, principal, repository, session, missing, found, reserved)
    except BaseException:
        reservations.give_back(units.write, reserved)
        raise


def _begin(
    uow: UnitOfWork, principal: Principal, repository: Repository, session: str, files: Sequence[ShardFile], names: Sequence[str]
) -> tuple[Mapping[str, PushedObject], str, list[ShardFile]]:
    """Returns the blocks of the files by name, a reservation, and the files that the repository does not have yet.

    The quota of the blocks passes to their files. The remainder is reserved, because it is staged before it is recorded.
    """
    require_push(principal, repository)
    found = _blocks(uow, repository, session, names)
    check_effort(files, sum(row.size for row in found.values()))
    distinct = {file.sha256: file for file in files}
    missing = [file for file in distinct.values() if not pushed_objects.named(uow, repository, file.sha256, file.size)]
    more = max(0, sum(file.size for file in missing) - sum(row.charged for row in found.values()))
    return found, reservations.reserve(uow, principal, repository, more), missing


def _put_together(
    units: UnitsOfWork, principal: Principal, repository: Repository, session: str, files: Sequence[ShardFile],
    found: Mapping[str, PushedObject], reserved: str,
) -> None:  # fmt: skip
    names = sorted(found)
    reader = _Blocks(units.tools, {name: str(row.staged) for name, row in found.items()})
    for file in files:
        reader.check(file)
    for number, file in enumerate(files, 1):
        staged = StagedFile(file.sha256, file.size, new_upload())
        try:
            _stage(units.tools, staged.upload, file, reader)
            with units.write() as uow:
                freed = _make_room(uow, repository, session, names, file.size)
                reservations.shrink(uow, reserved, file.size - freed)
                pushed_objects.keep(uow, principal, repository, [staged])
                if number == len(files):
                    reservations.release(uow, reserved)
        except BaseException:
            units.tools.blobs.discard(staged.upload)
            raise
    if not files:
        reservations.give_back(units.write, reserved)


def _make_room(uow: UnitOfWork, repository: Repository, session: str, names: Sequence[str], size: int) -> int:
    """Reduces the quota charged for blocks by the size of a verified file assembled from them; returns by how many bytes."""
    open_account(uow, owner_of(repository), "bytes")  # one at a time
    left = size
    for row in _blocks(uow, repository, session, names).values():
        freed = min(row.charged, left)
        row.charged, left = row.charged - freed, left - freed
    uow.session.flush()
    return size - left


def _blocks(uow: UnitOfWork, repository: Repository, session: str, names: Sequence[str]) -> Mapping[str, PushedObject]:
    found = dict[str, PushedObject]()
    for start in range(0, len(names), 500):  # as many as a statement may name everywhere
        found |= rows.blocks(uow.session, repository.full_name, session, names[start : start + 500])
    missing = next((name for name in names if name not in found), None)
    if missing:
        raise XetError("xet.shard", reason=f"the block {missing} was not sent in this session")
    return found


class _Blocks:
    """The blocks of a session, opened as they are asked for.

    Args:
        tools: where they are staged.
        uploads: under which upload, by name.
    """

    def __init__(self, tools: Tools, uploads: Mapping[str, str]) -> None:
        self._tools, self._uploads = tools, uploads
        self._block = lru_cache(OPEN_BLOCKS)(self._read_headers)

    def check(self, file: ShardFile) -> None:
        """Raises `XetError` where a file's terms are not what the blocks have."""
        for term in file.terms():
            held = self._block(term.block).size(term.start, term.stop)
            if held != term.size:
                reason = f"chunks {term.start} to {term.stop} of block {term.block} hold {held} bytes, not {term.size}"
                raise XetError("xet.shard", reason=reason)

    def chunks(self, file: ShardFile) -> Iterator[bytes]:
        """The bytes of a file that was checked, in order."""
        for term in file.terms():
            with closing(self._tools.blobs.staged(self._uploads[term.block], PUSHED)) as source:
                yield from self._block(term.block).chunks(_reads(source), term.start, term.stop)

    def _read_headers(self, name: str) -> Block:
        with closing(self._tools.blobs.staged(self._uploads[name], HEADERS)) as source:
            return Block(name, bytes(read_range(source, "", 0, source.size(""))))


def _reads(source: Source) -> Callable[[int, int], bytes]:
    return lambda offset, length: bytes(read_range(source, "", offset, length))


def _stage(tools: Tools, upload: str, file: ShardFile, reader: _Blocks) -> None:
    hashed, held, offset = hashlib.sha256(), bytearray(), 0
    for chunk in reader.chunks(file):
        hashed.update(chunk)
        held += chunk
        if len(held) >= tools.blobs.write_bytes:
            offset = tools.blobs.append(upload, PUSHED, offset, bytes(held))
            held.clear()
    tools.blobs.append(upload, PUSHED, offset, bytes(held))
    if hashed.hexdigest() != file.sha256:
        raise XetError("xet.digest", actual=hashed.hexdigest(), expected=file.sha256)
    tools.blobs.sync_staged(upload, PUSHED)

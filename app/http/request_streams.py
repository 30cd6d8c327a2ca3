"""Bodies that are taken while they arrive: staged in pieces, or read line by line; never held as a whole."""

import hashlib
from collections.abc import AsyncIterator, Callable

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.blobs.store import BlobStore
from app.domain.errors import DomainError


def said_bytes(request: Request) -> int:
    """How many bytes a request says that it brings; 0 where it does not say, or says nothing that could be."""
    said = request.headers.get("Content-Length", "")
    return int(said) if said.isascii() and said.isdigit() and len(said) < 20 else 0


async def pieces(request: Request, size: int, whole: bool = True) -> AsyncIterator[bytes]:
    """The body in pieces of about a size: one hop to a thread for each, not for every packet.

    Args:
        request: whose body it is.
        size: of a piece, in bytes.
        whole: False where what arrived counts though its client went away, who will ask how much that was and go on there.

    Raises:
        DomainError: upload.broken, when the client went away from what should be whole.
    """
    held = bytearray()
    try:
        async for chunk in request.stream():
            held += chunk
            if len(held) >= size:
                yield bytes(held)
                held.clear()
    except ClientDisconnect:
        if whole:
            raise DomainError("upload.broken") from None
    if held:
        yield bytes(held)


async def lines(request: Request, longest: int, most: int) -> AsyncIterator[bytes]:
    """The body's lines without their ends, empty ones left out.

    Args:
        request: whose body it is.
        longest: how many bytes a line may have.
        most: how many bytes all of them may have.

    Raises:
        DomainError: request.too_large, upload.broken.
    """
    held, total = bytearray(), 0
    async for piece in pieces(request, 64 * 2**10):
        total += len(piece)
        if total > most:
            raise DomainError("request.too_large", what="the body", size=total, limit=most)
        held += piece
        *whole, rest = bytes(held).split(b"\n") if b"\n" in piece else (bytes(held),)
        for line in whole:
            if line.strip():
                yield line
        held = bytearray(rest)
        if len(held) > longest:
            raise DomainError("request.too_large", what="a line of the body", size=len(held), limit=longest)
    if held.strip():
        yield bytes(held)


async def discard_body(request: Request, most: int) -> None:
    """Reads and discards a body, because some clients read the answer only after they have sent the whole body.

    Raises:
        DomainError: request.too_large, upload.broken.
    """
    size = 0
    async for piece in pieces(request, 64 * 2**10):
        size += len(piece)
        if size > most:
            raise DomainError("request.too_large", what="the body", size=size, limit=most)


async def stage(
    request: Request, blobs: BlobStore, upload: str, name: str, most: int, watch: Callable[[bytes], None] | None = None
) -> tuple[int, str]:
    """Stages a body as a file of an upload that is nobody else's.

    Args:
        request: whose body it is.
        blobs: where it is staged.
        upload, name: as what.
        most: how many bytes it may have.
        watch: is shown every piece before it is kept; what it raises ends this.

    Returns:
        Size in bytes and sha256 in hex.

    Raises:
        DomainError: request.too_large, upload.broken, server.storage_full, and what a store says.
    """
    hashed, offset = hashlib.sha256(), 0

    def take(piece: bytes) -> int:
        if watch:
            watch(piece)
        hashed.update(piece)
        return blobs.append(upload, name, offset, piece)

    async for piece in pieces(request, blobs.write_bytes):
        if offset + len(piece) > most:
            raise DomainError("request.too_large", what="the body", size=offset + len(piece), limit=most)
        offset = await run_in_threadpool(take, piece)
    return offset, hashed.hexdigest()

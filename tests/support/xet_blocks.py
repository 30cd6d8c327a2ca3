"""Xet blocks made by hand."""

import struct

import lz4.frame

from app.core.xet import GROUPED, PLAIN


def grouped(data: bytes) -> bytes:
    return b"".join(data[place::4] for place in range(4))


def chunk(data: bytes, scheme: int = PLAIN, says: int | None = None) -> bytes:
    packed = data if scheme == PLAIN else lz4.frame.compress(grouped(data) if scheme == GROUPED else data)
    return header(len(packed), scheme, len(data) if says is None else says) + packed


def header(packed: int, scheme: int, plain: int, version: int = 0) -> bytes:
    return bytes([version]) + packed.to_bytes(3, "little") + bytes([scheme]) + plain.to_bytes(3, "little")


def raw(name: str) -> bytes:
    return struct.pack("<4Q", *(int(name[at : at + 16], 16) for at in range(0, 64, 16)))

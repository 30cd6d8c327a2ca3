"""What the attacks share: the module that the good patch changes, and the question that all of them ask."""

import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from app.core.errors import CoreError

MODULE = "model.layers.0.self_attn.q_proj"
PATIENCE = 6.0  # seconds of processor time that an attack may cost, on a busy machine too

Refusal = Callable[[Path, Path], CoreError]


def exchange(address: tuple[str, int], sent: bytes, gone: bool = False) -> bytes:
    """Sends bytes over a connection of their own and returns what is answered until it is closed; `gone` closes our end first."""
    answer = b""
    with socket.create_connection(address, timeout=30) as client:
        client.sendall(sent)
        with suppress(OSError):  # a refusal may be followed by a reset, and come before all was sent
            if gone:
                client.shutdown(socket.SHUT_WR)
            while part := client.recv(65_536):
                answer += part
    return answer


MIB = 2**20
# Bodies of JSON of about eight million bytes, by what they are made of: of most, Python makes many times as much.
JSON_BOMBS = {
    "depth": b"[" * (8 * MIB - 1),
    "lists": b"[" + b"[]," * 2_700_000 + b"[]]",
    "objects": b"[" + b"{}," * 2_700_000 + b"{}]",
    "number": b'{"name":' + b"9" * 7 * MIB + b"}",
    "numbers": b"[" + b"1e9," * 2_000_000 + b"0]",
    "members": b"{" + b",".join(b'"%d":0' % i for i in range(500_000)) + b"}",
    "text": b'{"name":"' + b"a" * 8_000_000 + b'"}',
    "files": b'{"trained_on":"v1","files":[' + b",".join([b"{}"] * 1_000_000) + b"]}",
    # As much as is parsed, of what costs most; and as deep as that.
    "most": b"{" + b",".join(b'"%060d":{}' % i for i in range(2**16 - 2)) + b"}",
    "deepest": b"[" * (2**17 - 1) + b" " * 7 * MIB,
}

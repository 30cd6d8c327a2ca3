"""What the attacks share: the module that the good patch changes, and the question that all of them ask."""

import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from app.core.errors import CoreError

MODULE = "model.layers.0.self_attn.q_proj"
PATIENCE = 2.0  # seconds of processor time that an attack may cost

Refusal = Callable[[Path, Path], CoreError]


def exchange(address: tuple[str, int], sent: bytes, gone: bool = False) -> bytes:
    """Sends bytes over a connection of their own and returns what is answered until it is closed; `gone` closes our end first."""
    answer = b""
    with socket.create_connection(address, timeout=30) as client:
        client.sendall(sent)
        if gone:
            client.shutdown(socket.SHUT_WR)
        with suppress(OSError):  # a refusal may be followed by a reset
            while part := client.recv(65_536):
                answer += part
    return answer

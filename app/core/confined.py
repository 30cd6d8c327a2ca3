"""Opens files beneath allowed directories only, even when symbolic links change in the meantime.

The check and the open cannot diverge (no TOCTOU race): the path is resolved, the result is checked, and exactly that result is
opened, component by component and without following a link. If a link is swapped in between, the open fails. So the descriptor
always refers to a file whose real path was checked. This needs no Linux-specific interface (`openat2`, /proc).
"""

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# Without O_PATH, the directories on the way must be readable; with it, search (execute) permission is enough.
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
# Non-blocking: opening a pipe that replaced the file would block this thread, and all readers waiting for it, for ever.
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


class OutsideError(Exception):
    """A path leads to a place that is not beneath any allowed directory."""


def open_beneath(path: Path, roots: Sequence[Path]) -> int:
    """Opens a file for reading; links may lead to any place beneath the roots.

    Args:
        path: the file to open.
        roots: real paths of the allowed directories. Users who can change the directories above them are trusted.

    Returns:
        A descriptor, which may be of any kind of file; the caller closes it.

    Raises:
        OutsideError: the file does not lie beneath a root.
        OSError: the file cannot be opened, or a link on the way was swapped.
    """
    try:
        real = path.resolve(strict=True)
    except (RuntimeError, ValueError):  # a loop of links (before Python 3.13), or a NUL byte in the path
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from None
    if not any(real.is_relative_to(root) for root in roots):
        raise OutsideError
    return _open_real(real)


def _open_real(real: Path) -> int:
    """Opens a path without following any link in it."""
    folder = os.open(real.anchor, _FOLDER)
    try:
        for part in real.parts[1:-1]:
            inner = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(real.name or ".", READ | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        with suppress(OSError):
            os.close(folder)

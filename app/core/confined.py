"""Opens files beneath allowed directories only, whatever becomes of links meanwhile.

To judge a path and to open it are one act: the path is resolved, the result is judged, and just that result is opened, component
by component and without following a link. A link that is swapped in between makes the open fail; it leads nowhere. So the
descriptor is of a file whose real path was judged. Needs nothing of Linux (`openat2`, /proc).
"""

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# Where there is no O_PATH, folders on the way must be readable; with it, it is enough that they may be entered.
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
# Without waiting: a pipe that took the file's name would hold us, and all who read with us, for ever.
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


class OutsideError(Exception):
    """A path leads to a place that is not beneath any allowed directory."""


def open_beneath(path: Path, roots: Sequence[Path]) -> int:
    """Opens a file for reading; links may lead to any place beneath the roots.

    Args:
        path: of the file.
        roots: allowed directories, by their real paths; who may change what is above them is trusted.

    Returns:
        A descriptor, whatever kind of file it is of; the caller closes it.

    Raises:
        OutsideError: it does not lie beneath a root.
        OSError: it cannot be opened, or a link was swapped on the way.
    """
    try:
        real = path.resolve(strict=True)
    except (RuntimeError, ValueError):  # links in a circle, before Python 3.13; a zero byte
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

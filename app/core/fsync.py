"""What has to be on the disk before something else may happen."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Waits until a file's content, or a directory's entries, are on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

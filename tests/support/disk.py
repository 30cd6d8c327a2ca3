"""A small separate file system for tests, which can be filled up."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MEGABYTE = 10**6
# More than one test run needs.
ROOM = 300 * MEGABYTE


class Disk:
    """A separate file system whose free space can be set, regardless of how much was written to it before."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def mount(self) -> bool:
        """Mounts the file system; returns whether that succeeded."""
        command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(self.place)]
        return shutil.which("mount") is not None and not subprocess.run(command, capture_output=True, check=False).returncode

    def leave(self, size: int) -> None:
        """Resizes the file system so that `size` bytes are free; tries again if a write came between measuring and resizing."""
        for _ in range(20):
            whole = size + shutil.disk_usage(self.place).used
            command = ["mount", "-o", f"remount,size={whole}", str(self.place)]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return
        raise AssertionError("the disk could not be resized")


@contextmanager
def mounted(place: Path) -> Iterator[Disk]:
    """Makes a directory that is a small disk until the block ends; skips the test where none can be mounted."""
    place.mkdir()
    disk = Disk(place)
    if not disk.mount():
        pytest.skip("needs the right to mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(place)], check=True)

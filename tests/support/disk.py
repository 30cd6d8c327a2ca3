"""A small disk of its own for tests, which can be full."""

import shutil
import subprocess
from pathlib import Path

MEGABYTE = 10**6
# What one round needs, and more.
ROOM = 300 * MEGABYTE


class Disk:
    """A disk of its own that has as much space left as it is told, however much was written before."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def mount(self) -> bool:
        """Whether it could be."""
        command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(self.place)]
        return shutil.which("mount") is not None and not subprocess.run(command, capture_output=True, check=False).returncode

    def leave(self, size: int) -> None:
        """Makes it so large that this many bytes are free; again where somebody wrote between the look and the change."""
        for _ in range(20):
            whole = size + shutil.disk_usage(self.place).used
            command = ["mount", "-o", f"remount,size={whole}", str(self.place)]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return
        raise AssertionError("the disk could not be resized")

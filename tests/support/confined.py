"""A process as `read_only`, `cap_drop: [ALL]` and `no-new-privileges` leave it: Linux does it without a container engine.

`confined.py SCRATCH WRITABLE... -- COMMAND` makes everything read-only but the directories that it is given, lays an empty file
system over SCRATCH, as `tmpfs` does over /tmp, gives up all capabilities and becomes COMMAND. It changes mounts, so
`command_line` runs it in a namespace of its own.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

# A container has its own of these.
KERNELS = ("/proc", "/sys", "/dev")
NO_CAPABILITIES = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]


def namespace() -> list[str]:
    """What gives a process mounts of its own; whoever is not root is one in it."""
    return ["unshare", "--mount", "--propagation", "private", *([] if os.getuid() == 0 else ["--map-root-user"])]


@functools.cache
def is_possible() -> bool:
    """Whether this machine lets us: on Linux, most do."""
    if not (shutil.which("unshare") and shutil.which("setpriv")):
        return False
    attempt = [*namespace(), "mount", "--bind", "/usr", "/usr"]
    return subprocess.run(attempt, check=False, capture_output=True).returncode == 0


def command_line(command: list[str], scratch: Path, writable: list[Path]) -> list[str]:
    """A command that runs another one, confined.

    Args:
        command: the other one.
        scratch: where it may write what nobody reads later.
        writable: the directories where it may write what lasts.
    """
    confined = [sys.executable, str(Path(__file__)), str(scratch), *map(str, writable), "--", *command]
    return [*namespace(), *confined]


def mounts() -> list[tuple[str, str]]:
    """Everything that is mounted, with its options."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line[4]), line[5]) for line in lines]


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def main(arguments: list[str]) -> None:
    end = arguments.index("--")
    (scratch, *writable), command = arguments[:end], arguments[end + 1 :]
    for directory in writable:
        mount("--bind", directory, directory)
    kept = (*writable, *KERNELS)
    for point, options in dict(mounts()).items():
        if not any(Path(point).is_relative_to(other) for other in kept):
            mount(
                "-o",
                ",".join(["remount", "bind", "ro", *(word for word in options.split(",") if word not in {"rw", "ro"})]),
                point,
            )
    mount("-t", "tmpfs", "-o", "nosuid,nodev,noexec", "tmpfs", scratch)
    os.execvp("setpriv", ["setpriv", *NO_CAPABILITIES, "--", *command])  # noqa: S606  a test's command


if __name__ == "__main__":
    main(sys.argv[1:])

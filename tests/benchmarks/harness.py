"""What the benchmarks share: whole processes with their time and peak memory, medians, tables, the machine in a line.

Imports nothing heavy: Linux folds the peak of the process that forks into `ru_maxrss` of its child, so whoever measures
children has to be smaller than they are.
"""

import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
PORTLLM = Path(sys.executable).with_name("portllm")  # the console script of this environment


@dataclass(frozen=True, slots=True)
class Options:
    """`work` keeps the models between runs; `small` only shows that a script works."""

    work: Path
    small: bool
    runs: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One process: wall-clock seconds, processor seconds of its own and of everything else that ran meanwhile, peak resident
    set and peak of its anonymous part in bytes.
    """

    seconds: float
    cpu: float
    others: float
    peak: int
    anonymous: int
    output: str


def measure(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Measured:
    """Runs a process to its end; its anonymous memory is sampled every 10 ms, the rest is the kernel's account.

    Raises:
        SystemExit: it failed; its output is shown.
    """
    # Users' interpreters keep compiled modules; without them every start of ours would compile the package again.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | dict(env or {})
    start, busy = time.perf_counter(), _busy()
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True
    )
    peak = _AnonymousPeak(process.pid)
    assert process.stdout
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed with {process.returncode}:\n{output}")
    cpu = usage.ru_utime + usage.ru_stime
    return Measured(seconds, cpu, max(0.0, _busy() - busy - cpu), usage.ru_maxrss * 1024, peak.stop(), output)


def _busy() -> float:
    """Processor seconds that this machine has spent on anything since it started, its own writing back included."""
    user, nice, system, _idle, _waiting, interrupts, soft, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")


class _AnonymousPeak:
    """The largest RssAnon + RssShmem of a process: resident memory that is not a mapped file."""

    def __init__(self, pid: int) -> None:
        self._status, self._ended, self._peak = Path(f"/proc/{pid}/status"), threading.Event(), 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            try:
                fields = dict(line.split(":", 1) for line in self._status.read_text().splitlines())
                sizes = [int(fields[f].split()[0]) * 1024 for f in ("RssAnon", "RssShmem")]
            except (OSError, KeyError):  # ended, or a zombie
                return
            self._peak = max(self._peak, sum(sizes))


def settle(*paths: Path) -> None:
    """Removes what the last run left and waits until nothing is waiting to be written, so that no run pays for another."""
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
    os.sync()


def warm(directory: Path) -> int:
    """Reads every file of a directory once, so that all contestants find it in the page cache; returns the bytes."""
    buffer, total = bytearray(4 * MIB), 0
    for path in sorted(directory.iterdir()):
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total


def spread(values: Iterable[float], form: str = "{:.2f}") -> str:
    """'median (min to max)'."""
    held = sorted(values)
    middle, low, high = (form.format(v) for v in (statistics.median(held), held[0], held[-1]))
    return f"{middle} ({low} to {high})"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table in plain text; the first column is flush left, the others are flush right."""
    cells = [[str(c) for c in row] for row in (columns, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    print(f"\n{title}")
    for number, row in enumerate(cells):
        print("  ".join(c.ljust(w) if not i else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))).rstrip())
        if not number:
            print("  ".join("-" * w for w in widths))


def verdict(text: str, met: bool) -> None:
    """States an aim and whether this run met it."""
    print(f"{'met   ' if met else 'MISSED'}  {text}", flush=True)


def print_machine() -> None:
    """The line without which no figure means anything."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    load = os.getloadavg()[0]
    name = models[0].partition(":")[2].strip() if models else platform.machine()
    print(
        f"{name}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}, load before: {load:.1f}"
    )

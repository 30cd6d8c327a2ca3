"""`portllm merge` as a whole process against PEFT's load, merge and save: medians of interleaved runs.

Beside them the limits to come close to: `cp -r` of the base with fsync, and a process that only imports torch.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.harness import (
    PORTLLM,
    Measured,
    Options,
    measure,
    print_machine,
    print_table,
    settle,
    spread,
    verdict,
    warm,
)
from tests.benchmarks.model import Model, main_model

PEFT = Path(__file__).with_name("peft_merge.py")
AIM = 4.0
OURS, OURS_UNSYNCED = "portllm merge (fsynced)", "portllm merge --no-sync"
THEIRS, THEIRS_SYNCED = "PEFT load, merge, save (not fsynced)", "PEFT and fsync of its output"
COPY, IMPORT, HELP = "cp -r of the base and fsync", "import torch", "portllm merge --help"


def run(options: Options) -> None:
    """Prints seconds by contestant, and the ratio of the medians."""
    model = main_model(options)
    print_machine()
    size = warm(model.base) + warm(model.patch)
    print(
        f"base: {model.parameters / 1e9:.3f} B parameters, {size / 1e9:.2f} GB with its patch, in the page cache before every run"
    )
    contestants = _contestants(model, options.work / "out")
    times: dict[str, list[Measured]] = {name: [] for name in contestants}
    synced: list[float] = []
    for number in range(options.runs):
        for name, contestant in contestants.items():
            settle(options.work / "out")
            times[name].append(contestant())
            if name == THEIRS:
                synced.append(times[name][-1].seconds + _sync(options.work / "out"))
        print(
            f"run {number + 1}: " + ", ".join(f"{n.partition(' (')[0]} {t[-1].seconds:.2f}" for n, t in times.items()), flush=True
        )
    settle(options.work / "out")
    _report(times, synced)


def _contestants(model: Model, out: Path) -> dict[str, Callable[[], Measured]]:
    python, directories = sys.executable, (model.base, model.patch, out)
    return {
        OURS: lambda: measure([PORTLLM, "merge", *directories]),
        OURS_UNSYNCED: lambda: measure([PORTLLM, "merge", "--no-sync", *directories]),
        THEIRS: lambda: measure([python, PEFT, *directories]),
        # `sync FILE` of coreutils is fsync of that file.
        COPY: lambda: measure(["sh", "-c", 'cp -r "$0" "$1" && sync "$1"/*', model.base, out]),
        IMPORT: lambda: measure([python, "-c", "import torch"]),
        HELP: lambda: measure([PORTLLM, "merge", "--help"]),
    }


def _sync(directory: Path) -> float:
    start = time.perf_counter()
    measure(["sync", *sorted(directory.iterdir())])
    return time.perf_counter() - start


def _report(times: dict[str, list[Measured]], synced: list[float]) -> None:
    middle = {name: statistics.median(m.seconds for m in measured) for name, measured in times.items()}
    middle[THEIRS_SYNCED] = statistics.median(synced)
    rows = []
    for name, measured in times.items():
        cpu = statistics.median(m.cpu for m in measured)
        others = statistics.median(m.others for m in measured)
        times_ours = f"{middle[name] / middle[OURS]:.2f}"
        rows.append((name, spread(m.seconds for m in measured), times_ours, f"{cpu:.2f}", f"{others:.2f}"))
        if name == THEIRS:
            rows.append((THEIRS_SYNCED, spread(synced), f"{middle[THEIRS_SYNCED] / middle[OURS]:.2f}", "", ""))
    columns = ("whole process", "seconds: median (min to max)", "times ours", "its cpu s", "others' cpu s")
    print_table(f"medians of {len(synced)} interleaved runs", columns, rows)
    ratio = middle[THEIRS] / middle[OURS]
    verdict(f"portllm merge, on the disk, is {ratio:.2f} times as fast as PEFT, not on the disk (aim: {AIM:.0f})", ratio >= AIM)
    for name, ours, theirs in (("both synced", OURS, THEIRS_SYNCED), ("neither synced", OURS_UNSYNCED, THEIRS)):
        ratio = middle[theirs] / middle[ours]
        verdict(f"{name}: {ratio:.2f} times as fast as PEFT (aim: {AIM:.0f})", ratio >= AIM)
    limit = 1.5 * middle[COPY] + middle[IMPORT]
    verdict(f"ours {middle[OURS]:.2f} s; the prototype's 1.5 cp + import torch would be {limit:.2f} s", middle[OURS] <= limit)

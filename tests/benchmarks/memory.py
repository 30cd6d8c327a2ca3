"""Peak memory of `portllm merge` for a model and one twice as large, beside `import torch` alone and PEFT.

The peak is the kernel's (`ru_maxrss`, which counts mapped files too); "anonymous" is what no file stands behind.
"""

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.harness import PORTLLM, Measured, Options, measure, print_machine, print_table, settle, spread, verdict
from tests.benchmarks.model import Model, larger_model, main_model

PEFT = Path(__file__).with_name("peft_merge.py")
MB = 10**6
AIM = 150 * MB
RUNS = 3


def run(options: Options) -> None:
    """Prints peaks by process, and what `portllm merge` adds to `import torch`."""
    main, larger, out = main_model(options), larger_model(options), options.work / "out"
    print_machine()
    processes: dict[str, Callable[[], Measured]] = {"import torch": lambda: measure([sys.executable, "-c", "import torch"])}
    for model in (main, larger):
        processes[_name("portllm merge", model)] = lambda m=model: measure([PORTLLM, "merge", m.base, m.patch, out])
    for model in (main, larger):
        processes[_name("PEFT", model)] = lambda m=model: measure([sys.executable, PEFT, m.base, m.patch, out])
    peaks: dict[str, list[Measured]] = {name: [] for name in processes}
    for number in range(1 if options.small else RUNS):
        for name, process in processes.items():
            if number and name.startswith("PEFT"):
                continue  # once is enough
            settle(out)
            peaks[name].append(process())
    settle(out)
    torch = statistics.median(m.peak for m in peaks["import torch"])
    rows = []
    for name, held in peaks.items():
        added = statistics.median(m.peak for m in held) - torch
        anonymous = spread((m.anonymous / MB for m in held), "{:.0f}")
        rows.append((name, len(held), spread((m.peak / MB for m in held), "{:.0f}"), f"{added / MB:.0f}", anonymous))
    columns = ("whole process", "runs", "peak, MB: median (min to max)", "more than import torch", "anonymous, MB")
    print_table("peak memory", columns, rows)
    for model in (main, larger):
        # The worst of ours against the median of torch's.
        added = max(m.peak for m in peaks[_name("portllm merge", model)]) - torch
        text = f"{_name('portllm merge', model)}: {added / MB:.0f} MB more than import torch (aim: at most {AIM // MB})"
        verdict(text, added <= AIM)
    print(f"model sizes: 1 to {larger.parameters / main.parameters:.2f}")


def _name(process: str, model: Model) -> str:
    return f"{process}, {model.parameters / 1e9:.2f} B parameters"

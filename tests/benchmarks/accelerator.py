"""One sha256, and the rate, on the CPU and on the accelerator that a worker of a class `gpu...` computes on.

Each device computes, in a process of its own, one-layer models in bf16, fp16 and fp32 (61 M elements each) and the main model.
"Strong" patches add a delta as large as the weights: there the noise of a float64 product is largest beside what is rounded.
The rate is that of `Merger.stream`, which is what a worker reads; nothing is written, and digests are taken apart from the clock.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from app.core import arithmetic
from app.core.checkpoint import SINGLE_FILE
from app.core.recipe import BLOCK_ELEMENTS
from app.core.stream import Merger
from tests.benchmarks.harness import Options, print_machine, print_table, verdict, warm
from tests.benchmarks.model import Model, main_model, one_layer, strong_patch

DTYPES = ("bfloat16", "float16", "float32")
AHEAD = 2  # pieces under way for each thread


def run(options: Options) -> None:
    """Prints digests and rates by model and device; where there is only the CPU, it says so."""
    print_machine()
    models = {dtype: one_layer(options, dtype) for dtype in DTYPES}
    models |= {f"{dtype}, strong": Model(m.base, strong_patch(m), m.parameters) for dtype, m in models.items()}
    models["main model, bfloat16"] = main_model(options)
    for model in models.values():
        warm(model.base)
    devices = _devices()
    ways = {f"{device} x {n}": _child(device, n, models, options.runs) for device in devices for n in _threads()}
    reference = next(iter(ways.values()))["digests"]
    rows = [
        (name, *(f"{way['rates'][name]:.2f}" if way["digests"][name] == reference[name] else "DIFFERS" for way in ways.values()))
        for name in models
    ]
    rows.append(("memory of the accelerator, MB", *(f"{way['memory'] / 1e6:.0f}" for way in ways.values())))
    title = "GB/s of merged bytes by device and threads (median); DIFFERS: not the first column's sha256"
    print_table(title, ("model", *ways), rows)
    name = next((way["name"] for way in ways.values() if way["name"]), "none was found, only the CPU was compared")
    print(f"accelerator: {name}")
    equal = sum(way["digests"][name] == reference[name] for way in ways.values() for name in models)
    verdict(f"{equal} of {len(ways) * len(models)} gave the first column's bytes (aim: all)", equal == len(ways) * len(models))


def _devices() -> list[str]:
    code = "from app.core.arithmetic import best_device; print(best_device().id)"
    found = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    return list(dict.fromkeys(("cpu", found)))


def _threads() -> list[int]:
    return sorted({1, arithmetic.threads(), os.cpu_count() or 1})


def _child(device: str, threads: int, models: dict[str, Model], runs: int) -> dict[str, Any]:
    paths = {name: [str(model.base), str(model.patch)] for name, model in models.items()}
    order = json.dumps({"device": device, "threads": threads, "runs": runs, "models": paths})
    command = [sys.executable, "-m", "tests.benchmarks.accelerator", order]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def _compute(order: dict[str, Any]) -> dict[str, Any]:
    """The child: digests and median rates by model, the accelerator's name and the most memory that was taken of it."""
    import torch

    from tests.benchmarks.mergers import mergers

    computing, digests, rates = arithmetic.load(order["device"]), {}, {}
    with ThreadPoolExecutor(order["threads"]) as pool:

        def pieces(merger: Merger) -> Iterator[memoryview]:
            return merger.stream(SINGLE_FILE, pool=pool, ahead=AHEAD * order["threads"])

        for name, (base, patch) in order["models"].items():
            with mergers(Model(Path(base), Path(patch), 0), computing) as merger_of:
                merger = merger_of(BLOCK_ELEMENTS)
                digest = hashlib.sha256()
                for piece in pieces(merger):
                    digest.update(piece)
                digests[name], found = digest.hexdigest(), []
                for _ in range(order["runs"]):
                    start = time.perf_counter()
                    size = sum(map(len, pieces(merger)))
                    found.append(size / 1e9 / (time.perf_counter() - start))
                rates[name] = statistics.median(found)
    is_host = order["device"] == "cpu"
    name, memory = ("", 0) if is_host else (torch.cuda.get_device_name(0), torch.cuda.max_memory_reserved())
    return {"digests": digests, "rates": rates, "name": name, "memory": memory}


if __name__ == "__main__":
    print(json.dumps(_compute(json.loads(sys.argv[1]))))

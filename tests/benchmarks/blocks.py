"""GB/s of merged bf16 by block size, on two threads: what BLOCK_ELEMENTS in app/core/recipe.py rests on.

Only computed bytes are asked for: read from the page cache, computed and thrown away, nothing is written.
"""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from app.core.checkpoint import SINGLE_FILE
from app.core.plan import Compute
from app.core.recipe import BLOCK_ELEMENTS
from app.core.stream import Merger
from tests.benchmarks.harness import Options, print_machine, print_table, spread, warm
from tests.benchmarks.mergers import mergers
from tests.benchmarks.model import main_model

EXPONENTS = range(15, 22)
THREADS = 2
TENSORS = 28  # four layers, 487 MB


def run(options: Options) -> None:
    """Prints throughput by block size, and how it compares with the block size in use."""
    model = main_model(options)
    warm(model.base)
    print_machine()
    rates: dict[int, list[float]] = {e: [] for e in EXPONENTS}
    with mergers(model) as merger_of, ThreadPoolExecutor(THREADS) as pool:
        for number in range(2 * options.runs + 1):
            for exponent, held in rates.items():
                # A merger of its own for every run: the factors are loaded within the time, as in a merge.
                done, seconds = _compute(merger_of(2**exponent), pool)
                if number:  # the first round warms up
                    held.append(done / seconds / 1e9)
    used = statistics.median(rates[BLOCK_ELEMENTS.bit_length() - 1])
    rows = []
    for exponent, held in rates.items():
        note = " (BLOCK_ELEMENTS)" if 2**exponent == BLOCK_ELEMENTS else ""
        rows.append((f"2^{exponent}{note}", spread(held), f"{statistics.median(held) / used:.2f}"))
    columns = ("elements of a block", "GB/s: median (min to max)", "times the one in use")
    print_table(f"{done / 1e6:.0f} MB of computed bf16, {THREADS} threads, {2 * options.runs} interleaved runs", columns, rows)


def _compute(merger: Merger, pool: ThreadPoolExecutor) -> tuple[int, float]:
    """Produces the first computed tensors of the model; returns bytes and seconds."""
    file = merger.plan.files[SINGLE_FILE]
    computed = [(o, o + s.length) for s, o in zip(file.segments, file.starts, strict=True) if isinstance(s, Compute)]
    pieces = [p for start, stop in computed[:TENSORS] for p in merger.pieces(SINGLE_FILE, start, stop)]
    start = time.perf_counter()
    # The length is all that is kept, so memory does not grow with the model.
    done = sum(pool.map(lambda piece: len(piece.produce()), pieces))
    return done, time.perf_counter() - start

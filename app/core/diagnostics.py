"""Data-free signals: what of a patch survives rounding, and whether two releases are of one line.

Merge fidelity is <Q(W'+D)-W', D> / ||D||^2: the share of the patch that is still there after rounding to the stored
dtype. Lineage is cos(W, W') per tensor: close to 1 where one release continues the other, close to 0 for models that were
trained independently, however equal their shapes (porting between those measurably makes models worse than no patch).
"""

import math
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.core.arithmetic import Arithmetic, Block, Moments
from app.core.checkpoint import Checkpoint
from app.core.errors import AdapterError, PortError
from app.core.findings import Finding, refusal
from app.core.plan import Compute
from app.core.safetensors_header import DTYPE_BYTES, TensorInfo
from app.core.source import Source, read_range
from app.core.stream import Merger, grid

MAX_SAMPLE_BYTES = 64 * 2**20
# A port answers within a second; a quarter of what may be read pins the share down to about a part in a thousand.
FIDELITY_SAMPLE_BYTES = 16 * 2**20
SAMPLE_SHARE = 0.01
MIN_TENSOR_SAMPLE = 128 * 2**10
RUN_BYTES = 64 * 2**10
SEED = 20241010

# Provisional, not fitted: independent models measure about 0, continuations above 0.99 (reference: UpgradeBench pairs).
UNRELATED_COSINE = 0.5
DISTANT_COSINE = 0.9
LOW_FIDELITY = 0.9


@dataclass(frozen=True, slots=True)
class Overflow:
    """Values of the merged model that became infinite where it was sampled: the first such tensor, and its `count` there."""

    tensor: str
    dtype: str
    count: int


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Share of the patch that survives rounding, over all touched tensors and for the worst one (1.0 is all of it)."""

    overall: float
    worst: float
    worst_tensor: str
    sampled: bool
    bytes_read: int
    overflow: Overflow | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "overall": self.overall,
            "worst": self.worst,
            "worst_tensor": self.worst_tensor,
            "sampled": self.sampled,
            "bytes_read": self.bytes_read,
        }


@dataclass(frozen=True, slots=True)
class Likeness:
    """How two versions of one tensor compare: cos(W, W') and ||W' - W|| / ||W||."""

    cosine: float
    drift: float


@dataclass(frozen=True)
class Lineage:
    """Likeness of two releases by tensor, from samples (or from everything, when both are small)."""

    tensors: Mapping[str, Likeness]
    overall: Likeness
    bytes_read: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "overall": [self.overall.cosine, self.overall.drift],
            "bytes_read": self.bytes_read,
            "tensors": {name: [t.cosine, t.drift] for name, t in self.tensors.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Lineage":
        tensors = {name: Likeness(*pair) for name, pair in data["tensors"].items()}
        return cls(tensors, Likeness(*data["overall"]), data["bytes_read"])


def check_effect(merger: Merger) -> None:
    """Reads factors up to the first pair that adds something, which for a trained patch is the first.

    Raises:
        AdapterError: adapter.adds_nothing.
    """
    if all(merger.loaded_delta(delta).adds_nothing() for delta in merger.plan.deltas):
        raise AdapterError("adapter.adds_nothing")


def measure_fidelity(merger: Merger, arithmetic: Arithmetic, max_bytes: int | None = FIDELITY_SAMPLE_BYTES) -> Fidelity | None:
    """Merge fidelity from seeded sampled blocks, at most `max_bytes` read; from every block when it is None.

    Returns:
        None where the patch adds nothing in all that was read.
    """
    chooser = random.Random(SEED)
    targets = list(merger.plan.computed_tensors())
    budget = None if max_bytes is None else max_bytes // max(1, len(targets))
    shares: dict[str, Moments] = {}
    bytes_read = 0
    overflow: Overflow | None = None
    for target in targets:
        total, infinite = Moments(0.0, 0.0, 0.0), 0
        for block in _some_blocks(target, budget, chooser):
            weight = merger.read_block(target, block)
            bytes_read += len(weight)
            delta = merger.loaded_delta(target.delta) if target.delta else None
            moments, count = arithmetic.fidelity(weight, target.stored, delta, block, target.target)
            total, infinite = total.plus(moments), infinite + count
        if infinite and overflow is None:
            overflow = Overflow(target.tensor.name, target.dtype, infinite)
        if total.yy > 0:  # where NaN or infinities are, nothing is kept of the patch
            shares[target.tensor.name] = total if math.isfinite(total.xy) else Moments(0.0, 0.0, total.yy)
    if not shares:
        return None
    worst = min(shares, key=lambda n: shares[n].xy / shares[n].yy)
    overall = sum(m.xy for m in shares.values()) / sum(m.yy for m in shares.values())
    sampled = bytes_read < sum(t.tensor.nbytes for t in targets)
    return Fidelity(overall, shares[worst].xy / shares[worst].yy, worst, sampled, bytes_read, overflow)


def assess_effect(merger: Merger, arithmetic: Arithmetic) -> tuple[Fidelity | None, list[Finding]]:
    """What a merge would make of the patch: its sampled fidelity, and the findings about it."""
    try:
        check_effect(merger)
    except AdapterError as error:
        return None, [refusal(error)]
    fidelity = measure_fidelity(merger, arithmetic)
    return fidelity, list(judge_fidelity(fidelity))


def measure_lineage(old: Checkpoint, old_source: Source, new: Checkpoint, new_source: Source, arithmetic: Arithmetic) -> Lineage:
    """Compares all matrices that two releases have in common, by seeded samples of at most 64 MiB of each."""
    common = [
        (tensor, new.tensors[name])
        for name, tensor in sorted(old.tensors.items())
        if len(tensor.shape) == 2 and old.holds_numbers(tensor) and name in new.tensors
        and new.tensors[name].shape == tensor.shape and new.holds_numbers(new.tensors[name])
    ]  # fmt: skip
    moments: dict[str, Moments] = {}
    bytes_read = 0
    for (before, after), share in zip(common, _shares([max(b.nbytes, a.nbytes) for b, a in common]), strict=True):
        total = Moments(0.0, 0.0, 0.0)
        for start, stop in _runs(
            math.prod(before.shape), share, max(DTYPE_BYTES[before.dtype], DTYPE_BYTES[after.dtype]), before.name
        ):
            x = _elements(old, old_source, before, start, stop)
            y = _elements(new, new_source, after, start, stop)
            bytes_read += max(len(x), len(y))
            total = total.plus(arithmetic.compare(x, old.encoding(before), y, new.encoding(after)))
        moments[before.name] = total
    overall = Moments(*(sum(column) for column in zip(*moments.values(), strict=True))) if moments else Moments(0, 0, 0)
    return Lineage({name: _likeness(m) for name, m in moments.items()}, _likeness(overall), bytes_read)


def judge_fidelity(fidelity: Fidelity | None) -> Iterable[Finding]:
    """Findings about merge fidelity."""
    if fidelity is None:  # most of the patch is zero; how much of the rest survives is not known
        return
    if over := fidelity.overflow:  # the merge would end there
        yield refusal(PortError("port.overflow", tensor=over.tensor, dtype=over.dtype, count=over.count))
    elif fidelity.overall < LOW_FIDELITY:
        yield Finding(
            "fidelity.low",
            "warn",
            f"Only {fidelity.overall:.0%} of the patch survives rounding to the output dtype. "
            "Ask for dtype float32 or float16, or serve the patch as an adapter on the release.",
            fidelity.to_dict(),
        )


def judge_lineage(lineage: Lineage, touched: Iterable[str]) -> Iterable[Finding]:
    """Findings about the likeness of two releases in the tensors that a patch touches."""
    seen = {name: lineage.tensors[name] for name in touched if name in lineage.tensors}
    if not seen:
        return
    worst = min(seen, key=lambda name: seen[name].cosine)
    data = {
        "cosine": seen[worst].cosine, "tensor": worst, "overall_cosine": lineage.overall.cosine,
        "overall_drift": lineage.overall.drift, "bytes_read": lineage.bytes_read,
    }  # fmt: skip
    if seen[worst].cosine < UNRELATED_COSINE:
        text = "The release is not a continuation of the one that the patch was trained on"
        yield Finding("lineage.unrelated", "refuse", f"{text} (cosine {seen[worst].cosine:.2f} in {worst}).", data)
    elif seen[worst].cosine < DISTANT_COSINE:
        text = "The release has moved far from the one that the patch was trained on"
        yield Finding("lineage.distant", "warn", f"{text} (cosine {seen[worst].cosine:.2f} in {worst}).", data)
    else:
        text = f"Cosine {lineage.overall.cosine:.4f}, drift {lineage.overall.drift:.2%} from the release it was trained on."
        yield Finding("lineage.measured", "info", text, data)


def _some_blocks(target: Compute, budget: int | None, chooser: random.Random) -> Iterator[Block]:
    blocks = list(grid(*target.matrix))
    if budget is None or target.tensor.nbytes <= budget:
        yield from blocks
        return
    size = blocks[0].rows * blocks[0].columns * DTYPE_BYTES[target.tensor.dtype]
    if size <= budget:
        yield from chooser.sample(blocks, min(len(blocks), budget // size))
        return
    # A part of one block: whole rows from its beginning, or a piece of its only row.
    first = chooser.choice(blocks)
    width = DTYPE_BYTES[target.tensor.dtype]
    rows = min(first.rows, budget // (first.columns * width))
    if rows:
        yield Block(first.row, rows, first.column, first.columns)
    elif budget >= width:
        yield Block(first.row, 1, first.column, budget // width)


def _shares(sizes: list[int]) -> list[int]:
    """How many bytes to sample of each tensor: a hundredth, at least 128 KiB, in all at most 64 MiB."""
    if sum(sizes) <= MAX_SAMPLE_BYTES:
        return sizes
    wanted = [min(n, max(MIN_TENSOR_SAMPLE, int(n * SAMPLE_SHARE))) for n in sizes]
    scale = min(1.0, MAX_SAMPLE_BYTES / sum(wanted))
    return [int(n * scale) for n in wanted]


def _runs(elements: int, share: int, width: int, name: str) -> Iterator[tuple[int, int]]:
    """Seeded runs of neighbouring elements, spread evenly over a tensor, `share` bytes in all."""
    wanted = min(elements, share // width)
    if wanted == elements:
        step = RUN_BYTES * 16 // width
        yield from ((i, min(elements, i + step)) for i in range(0, elements, step))
        return
    count = max(1, wanted * width // RUN_BYTES)
    length, stride = wanted // count, elements // count
    chooser = random.Random(f"{SEED}:{name}")
    for i in range(count):
        start = i * stride + chooser.randrange(max(1, stride - length))
        yield start, start + length


def _elements(checkpoint: Checkpoint, source: Source, tensor: TensorInfo, start: int, stop: int) -> bytearray:
    path, width = checkpoint.shard_of[tensor.name], DTYPE_BYTES[tensor.dtype]
    offset = checkpoint.shards[path].data_start + tensor.begin + start * width
    return read_range(source, path, offset, (stop - start) * width)


def _likeness(m: Moments) -> Likeness:
    if not math.isfinite(m.xy + m.xx + m.yy):  # NaN compares as neither near nor far, and must not pass for near
        return Likeness(0.0, 1.0)
    if m.xx == 0 or m.yy == 0:
        same = m.xx == m.yy
        return Likeness(1.0 if same else 0.0, 0.0 if same else 1.0)
    return Likeness(m.xy / math.sqrt(m.xx * m.yy), math.sqrt(max(0.0, m.xx + m.yy - 2 * m.xy) / m.xx))

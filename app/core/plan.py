"""The plan of a merged model: which bytes of which file come from where. Made from headers alone, nothing is read."""

import json
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from app.core.arithmetic import Codec, Encoding
from app.core.checkpoint import CONFIG_FILE, INDEX_FILE, Checkpoint
from app.core.delta import Delta
from app.core.errors import CheckpointError, OutputError
from app.core.recipe import DTYPES, Recipe
from app.core.safetensors_header import DTYPE_BYTES, Header, TensorInfo, render_header
from app.core.strategies import STRATEGIES
from app.core.tokenizers import TOKENIZER_FILES, replaced_by


@dataclass(frozen=True, slots=True)
class Copy:
    """Bytes that pass through unchanged: `length` bytes at `offset` of a file of the base or of the patch."""

    origin: str  # "base" or "patch"
    path: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Literal:
    """Bytes that the plan itself wrote (a header, a configuration)."""

    content: bytes

    @property
    def length(self) -> int:
        return len(self.content)


@dataclass(frozen=True, slots=True)
class Compute:
    """A tensor whose values are computed: read at `offset` of a shard, changed by `delta`, written as `dtype`.

    `codec` converts the base's elements to numbers, and back if the dtype stays the same; None if they are the numbers.
    """

    path: str
    offset: int
    tensor: TensorInfo
    dtype: str
    delta: Delta | None
    codec: Codec | None = None

    @property
    def stored(self) -> Encoding:
        return Encoding(self.tensor.dtype, self.codec)

    @property
    def target(self) -> Encoding:
        return Encoding(self.dtype, self.codec if self.dtype == self.tensor.dtype else None)

    @property
    def matrix(self) -> tuple[int, int]:
        """(rows, columns); a tensor of other rank is seen as a matrix of its last dimension."""
        columns = self.tensor.shape[-1] if self.tensor.shape else 1
        return (math.prod(self.tensor.shape) // columns if columns else 0), columns

    @property
    def length(self) -> int:
        return math.prod(self.tensor.shape) * DTYPE_BYTES[self.dtype]


Segment = Copy | Literal | Compute


@dataclass(frozen=True)
class PlannedFile:
    """One file of the merged model.

    `carried_from` names the origin of a file that is a byte-for-byte copy ("base" or "patch"), and is None for the others.
    """

    path: str
    segments: tuple[Segment, ...]
    carried_from: str | None = None

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Offset of every segment in the file, in bytes."""
        starts, position = [], 0
        for segment in self.segments:
            starts.append(position)
            position += segment.length
        return tuple(starts)

    @cached_property
    def size(self) -> int:
        return sum(s.length for s in self.segments)

    def tensors_within(self, start: int, stop: int) -> int:
        """How many of the tensors that the patch touches end in (start, stop], in bytes."""
        return bisect_right(self._ends, stop) - bisect_right(self._ends, start)

    @cached_property
    def _ends(self) -> tuple[int, ...]:
        placed = zip(self.starts, self.segments, strict=True)
        return tuple(start + segment.length for start, segment in placed if isinstance(segment, Compute) and segment.delta)


@dataclass(frozen=True)
class MergePlan:
    """Every file of a merged model, by path, and the deltas that are added on the way."""

    files: Mapping[str, PlannedFile]
    deltas: tuple[Delta, ...]

    @property
    def total_bytes(self) -> int:
        return sum(f.size for f in self.files.values())

    def file(self, path: str) -> PlannedFile:
        """Raises `OutputError` (output.unknown_file) for a path that is not part of the model."""
        if path not in self.files:
            raise OutputError("output.unknown_file", path=path[:200])
        return self.files[path]

    def computed_tensors(self) -> Iterator[Compute]:
        return (s for f in self.files.values() for s in f.segments if isinstance(s, Compute) and s.delta)


def make_plan(base: Checkpoint, deltas: tuple[Delta, ...], recipe: Recipe, patch_files: Mapping[str, int]) -> MergePlan:
    """Plans the merged model.

    Args:
        base: the release.
        deltas: what the patch adds, from `Adapter.resolve`.
        recipe: the choices.
        patch_files: sizes in bytes of the files of the patch, for `tokenizer="patch"`.

    Raises:
        PortError: recipe.no_patch_tokenizer, recipe.partial_tokenizer.
    """
    deltas = STRATEGIES[recipe.strategy].apply(deltas)
    shards = {path: _plan_shard(path, base, {d.tensor: d for d in deltas}, recipe) for path in base.shards}
    files = dict(shards)
    replaced = replaced_by(patch_files) if recipe.tokenizer == "patch" else frozenset[str]()
    for path, size in base.files.items():
        if path not in shards and path not in replaced:
            files[path] = PlannedFile(path, (Copy("base", path, 0, size),), "base")
    if replaced:
        own = {p: n for p, n in patch_files.items() if p in TOKENIZER_FILES}
        files |= {p: PlannedFile(p, (Copy("patch", p, 0, n),), "patch") for p, n in own.items()}
    if any(_changes_dtype(t, base, recipe) for t in base.tensors.values()):
        files |= _rendered(base, recipe)
    return MergePlan(dict(sorted(files.items())), deltas)


def _plan_shard(path: str, base: Checkpoint, deltas: Mapping[str, Delta], recipe: Recipe) -> PlannedFile:
    header = base.shards[path]
    converts = any(_changes_dtype(t, base, recipe) for t in header.tensors)
    if not converts and not any(t.name in deltas for t in header.tensors):
        return PlannedFile(path, (Copy("base", path, 0, header.data_start + _data_bytes(header)),), "base")
    # The header is copied verbatim unless a dtype changes: then same order, same metadata, new offsets.
    first: Segment = Copy("base", path, 0, header.data_start)
    if converts:
        first = Literal(render_header(((t.name, _dtype(t, base, recipe), t.shape) for t in header.tensors), header.metadata)[0])
    segments = [first]
    for tensor in header.tensors:
        offset = header.data_start + tensor.begin
        if tensor.name in deltas or _changes_dtype(tensor, base, recipe):
            dtype, codec = _dtype(tensor, base, recipe), base.kind.codec(base.config, tensor)
            segments.append(Compute(path, offset, tensor, dtype, deltas.get(tensor.name), codec))
        elif isinstance(last := segments[-1], Copy) and last.offset + last.length == offset:
            segments[-1] = Copy("base", path, last.offset, last.length + tensor.nbytes)
        else:
            segments.append(Copy("base", path, offset, tensor.nbytes))
    return PlannedFile(path, tuple(s for s in segments if s.length))


def _rendered(base: Checkpoint, recipe: Recipe) -> dict[str, PlannedFile]:
    """config.json and the index, rewritten because the dtype changes."""
    config = dict(base.config)
    for key in ("dtype", "torch_dtype"):
        if key in config:
            config[key] = recipe.dtype
    if not {"dtype", "torch_dtype"} & set(config):
        config["dtype"] = recipe.dtype
    rendered = {CONFIG_FILE: _json_file(CONFIG_FILE, config)}
    if INDEX_FILE in base.files:
        total = sum(
            math.prod(t.shape) * DTYPE_BYTES[_dtype(t, base, recipe)] for header in base.shards.values() for t in header.tensors
        )
        weight_map = {name: base.shard_of[name] for name in sorted(base.tensors)}
        rendered[INDEX_FILE] = _json_file(INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return rendered


def _json_file(path: str, value: Any) -> PlannedFile:
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False)
    except RecursionError:  # a configuration that predates the bound on nesting depth
        raise CheckpointError("checkpoint.invalid_json", path=path, reason="it is nested too deeply") from None
    return PlannedFile(path, (Literal(f"{text}\n".encode()),))


def _dtype(tensor: TensorInfo, base: Checkpoint, recipe: Recipe) -> str:
    return DTYPES[recipe.dtype] if recipe.dtype and tensor.dtype in base.kind.floats else tensor.dtype


def _changes_dtype(tensor: TensorInfo, base: Checkpoint, recipe: Recipe) -> bool:
    return _dtype(tensor, base, recipe) != tensor.dtype


def _data_bytes(header: Header) -> int:
    return header.tensors[-1].end if header.tensors else 0

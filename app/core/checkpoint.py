"""A base model as it lies on disk: its shards, its other files, and what of it is left out.

Single-file (`model.safetensors`) and sharded (`model.safetensors.index.json`) checkpoints as save_pretrained writes them.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from app.core.arithmetic import Encoding
from app.core.base_kinds import BaseKind, base_kind
from app.core.errors import CheckpointError, PortError
from app.core.json_text import parse_object
from app.core.naming import check_architecture
from app.core.safetensors_header import Header, TensorInfo
from app.core.source import Source, read_header, read_range

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_JSON_BYTES = 64 * 2**20
MAX_FILES = 10_000
SHARD_NAME = re.compile(r"(?P<set>[^/]+)-\d+-of-\d+\.safetensors")

# Weights in other formats would be handed on without the patch, and some engines prefer them; pickles can run code.
FOREIGN_WEIGHTS = frozenset({
    ".bin", ".ckpt", ".gguf", ".h5", ".joblib", ".msgpack", ".npy", ".npz", ".nemo", ".onnx", ".ot", ".pickle", ".pkl",
    ".pt", ".pth", ".safetensors", ".tflite",
})  # fmt: skip
CODE = frozenset({".py", ".pyc", ".so"})


@dataclass(frozen=True)
class Checkpoint:
    """A base model: `shards` maps file names to headers, `files` every carried file to its size in bytes.

    `left_out` are files of the directory that do not belong to the release (other weight formats, code).
    """

    config: Mapping[str, Any]
    shards: Mapping[str, Header]
    files: Mapping[str, int]
    left_out: tuple[str, ...] = ()

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        return {t.name: t for header in self.shards.values() for t in header.tensors}

    @cached_property
    def kind(self) -> BaseKind:
        """How its tensors are stored."""
        return base_kind(self.config)

    def holds_numbers(self, tensor: TensorInfo) -> bool:
        """Returns whether the elements of a tensor are numbers that can be compared and measured."""
        return tensor.dtype in self.kind.mergeable | self.kind.floats

    def encoding(self, tensor: TensorInfo) -> Encoding:
        """How the elements of a tensor are stored."""
        return Encoding(tensor.dtype, self.kind.codec(self.config, tensor))

    def require_mergeable(self, tensor: TensorInfo) -> None:
        """Refuses a tensor that no delta can be added to.

        Raises:
            PortError: port.target_dtype.
        """
        if tensor.dtype not in self.kind.mergeable:
            raise PortError("port.target_dtype", tensor=tensor.name, dtype=tensor.dtype, supported=self.kind.summary)

    @cached_property
    def shard_of(self) -> dict[str, str]:
        return {t.name: path for path, header in self.shards.items() for t in header.tensors}


def list_files(root: Path) -> dict[str, int]:
    """Every regular file below a directory with its size, by POSIX path; hidden ones are passed over.

    Raises:
        CheckpointError: checkpoint.missing_file, checkpoint.too_many_files, checkpoint.unreadable.
    """
    if not root.is_dir():
        raise CheckpointError("checkpoint.missing_file", path=str(root))
    try:
        return _walk(root)
    except OSError as error:
        path = Path(error.filename or root).relative_to(root).as_posix()
        raise CheckpointError("checkpoint.unreadable", path=path, reason=error.strerror or str(error)) from None


def _walk(root: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for folder, folders, names in os.walk(root, onerror=_raise):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if any("\ud800" <= c <= "\udfff" for c in path.name):
                raise CheckpointError("checkpoint.unsafe_path", path=path.relative_to(root).as_posix()[:200])
            if name.startswith(".") or not path.is_file():
                continue
            found[path.relative_to(root).as_posix()] = path.stat().st_size
            if len(found) > MAX_FILES:
                raise CheckpointError("checkpoint.too_many_files", limit=MAX_FILES)
    return found


def _raise(error: OSError) -> None:
    """What os.walk cannot list it passes over otherwise."""
    raise error


def read_checkpoint(source: Source, files: Mapping[str, int]) -> Checkpoint:
    """Reads headers and configuration of a base model and checks that they are one whole.

    Args:
        source: where its files are read.
        files: all files of the directory with their sizes.

    Raises:
        CheckpointError, HeaderError: the directory is not a base model that can be merged into.
    """
    chosen = choose_files(source, files)
    config, carried = chosen.config, chosen.carried
    shards = {name: read_header(source, name) for name in chosen.shards}
    _check_unique(shards)
    if INDEX_FILE in files:
        _check_index(read_json(source, INDEX_FILE, files)["weight_map"], shards)
    for path in carried:
        if path.endswith("_config.json") and "/" not in path and read_json(source, path, files).get("auto_map"):
            raise CheckpointError("checkpoint.remote_code", path=path)
    return Checkpoint(config, shards, carried, tuple(sorted(set(files) - set(carried))))


class Chosen(NamedTuple):
    """What of a directory belongs to a release: its configuration, the names of its shards, and all its files with sizes."""

    config: Mapping[str, Any]
    shards: list[str]
    carried: dict[str, int]


def choose_files(source: Source, files: Mapping[str, int]) -> Chosen:
    """Tells the files of a release from what lies beside them; reads its configuration and index, and nothing else.

    Raises:
        CheckpointError: the directory is not a base model that can be used, as far as these two tell.
    """
    config = read_json(source, CONFIG_FILE, files)
    check_architecture(config)
    shards = _shard_names(source, files)
    named = frozenset(shards)
    carried = {p: n for p, n in files.items() if p in named or PurePosixPath(p).suffix not in FOREIGN_WEIGHTS | CODE}
    return Chosen(config, shards, carried)


def read_json(source: Source, path: str, files: Mapping[str, int]) -> dict[str, Any]:
    """Reads a JSON object of a model directory.

    Raises:
        CheckpointError: checkpoint.missing_file, checkpoint.invalid_json.
    """
    if path not in files:
        raise CheckpointError("checkpoint.missing_file", path=path)
    if files[path] > MAX_JSON_BYTES:
        raise CheckpointError("checkpoint.invalid_json", path=path, reason=f"more than {MAX_JSON_BYTES} bytes")
    try:
        return parse_object(bytes(read_range(source, path, 0, files[path])))
    except ValueError as error:
        raise CheckpointError("checkpoint.invalid_json", path=path, reason=str(error)) from None


def _shard_names(source: Source, files: Mapping[str, int]) -> list[str]:
    if INDEX_FILE not in files:
        if SINGLE_FILE not in files:
            raise CheckpointError("checkpoint.no_weights")
        return [SINGLE_FILE]
    if SINGLE_FILE in files:
        raise CheckpointError("checkpoint.ambiguous_weights")
    weight_map = read_json(source, INDEX_FILE, files).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError("checkpoint.invalid_index", path=INDEX_FILE, reason="weight_map must map tensors to shards")
    names = sorted(set(weight_map.values()))
    for name in names:
        if "/" in name or "\\" in name or ".." in name or "\0" in name or not name.endswith(".safetensors"):
            raise CheckpointError("checkpoint.unsafe_path", path=name[:200])
        if name not in files:
            raise CheckpointError("checkpoint.missing_file", path=name)
    _check_nothing_forgotten(names, files)
    return names


def _check_nothing_forgotten(names: Iterable[str], files: Iterable[str]) -> None:
    """A shard that the index does not name would be left out like a foreign weight, and its tensors with it."""
    sets = {"model", *(match["set"] for name in names if (match := SHARD_NAME.fullmatch(name)))}
    for path in sorted(set(files) - set(names)):
        if (match := SHARD_NAME.fullmatch(path)) and match["set"] in sets:
            reason = f"it names no tensor of {path!r}, which lies beside it"
            raise CheckpointError("checkpoint.index_mismatch", path=INDEX_FILE, reason=reason)


def _check_unique(shards: Mapping[str, Header]) -> None:
    seen: dict[str, str] = {}
    for path, header in shards.items():
        for tensor in header.tensors:
            if tensor.name in seen:
                raise CheckpointError("checkpoint.duplicate_tensor", tensor=tensor.name, first=seen[tensor.name], second=path)
            seen[tensor.name] = path


def _check_index(weight_map: Mapping[str, str], shards: Mapping[str, Header]) -> None:
    for tensor, path in weight_map.items():
        if tensor not in shards[path].by_name:
            raise CheckpointError("checkpoint.index_mismatch", path=INDEX_FILE, reason=f"tensor {tensor!r} is not in {path}")
    for tensor in _names(shards.values()):
        if tensor not in weight_map:
            raise CheckpointError("checkpoint.index_mismatch", path=INDEX_FILE, reason=f"it does not name tensor {tensor!r}")


def _names(headers: Iterable[Header]) -> Iterable[str]:
    return (t.name for header in headers for t in header.tensors)

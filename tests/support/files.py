"""safetensors files written by hand, valid or not, without `app.core`: what is tested does not write its own input."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Tensor = tuple[str, Sequence[int], bytes]  # dtype, shape, row-major bytes


def raw_file(header: bytes | Mapping[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    """A file of a header, given as text or as a value, and a data section; `length` overrides the true header length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A valid file of the given tensors, in the given order."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(content)]}
        offset += len(content)
    text = json.dumps(header).encode()
    return raw_file(text + b" " * (-len(text) % 8), b"".join(content for _, _, content in tensors.values()))


def integers(count: int, seed: int) -> np.ndarray:
    """`count` numbers from -2^15 to 2^15 by integer arithmetic alone (a Weyl sequence, mixed): the same everywhere."""
    x = (np.arange(count, dtype=np.uint64) + np.uint64(seed) * np.uint64(1_000_003)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return ((x >> np.uint64(48)).astype(np.int64) - 2**15).astype(np.int32)


def encode(numbers: np.ndarray, dtype: str) -> bytes:
    """Little-endian bytes of numbers in a safetensors float dtype; bf16 by cutting float32, so give exact values."""
    if dtype == "BF16":
        return (numbers.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return numbers.astype({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def decode(content: bytes, dtype: str) -> np.ndarray:
    """The numbers of a safetensors float dtype in float64, exactly."""
    if dtype == "BF16":
        return (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    return np.frombuffer(content, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float64)


def matrix(shape: Sequence[int], dtype: str, seed: int, scale: float = 2.0**-20) -> Tensor:
    """A tensor of `integers` times a scale (the default gives about the size of trained weights)."""
    return dtype, shape, encode(integers(math.prod(shape), seed) * scale, dtype)


def write_base(path: Path, tensors: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]], **config: Any) -> Path:
    """A base model directory of the given tensors: one file, or a shard for each mapping of a list, with its index."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": False, **config}))
    if isinstance(tensors, Mapping):
        (path / "model.safetensors").write_bytes(safetensors_bytes(tensors, {"format": "pt"}))
        return path
    weight_map = {}
    for number, shard in enumerate(tensors, 1):
        name = f"model-{number:05}-of-{len(tensors):05}.safetensors"
        (path / name).write_bytes(safetensors_bytes(shard, {"format": "pt"}))
        weight_map |= dict.fromkeys(shard, name)
    total = sum(len(content) for shard in tensors for _, _, content in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def write_patch(path: Path, factors: Mapping[str, tuple[Tensor, Tensor]], **config: Any) -> Path:
    """A patch directory of (A, B) by module; rank from the first A, alpha twice the rank, the modules as targets."""
    path.mkdir(parents=True)
    tensors = {}
    for module, (a, b) in factors.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
    rank = next(iter(factors.values()))[0][1][0] if factors else 1
    write_adapter_config(path, **({"r": rank, "lora_alpha": 2 * rank, "target_modules": list(factors)} | config))
    (path / "adapter_model.safetensors").write_bytes(safetensors_bytes(tensors, {"format": "pt"}))
    return path


def write_adapter_config(path: Path, **config: Any) -> None:
    """adapter_config.json with the given settings over a minimal valid one."""
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]} | config
    (path / "adapter_config.json").write_text(json.dumps(settings))


def factors(shape: tuple[int, int], rank: int, dtype: str, seed: int) -> tuple[Tensor, Tensor]:
    """A (rank x in) and B (out x rank) for a weight of (out, in); exact in every float dtype."""
    rows, columns = shape
    # Eight significant bits: whole numbers up to 127 times a power of two.
    a = encode(integers(rank * columns, seed) // 256 * 2.0**-9, dtype)
    b = encode(integers(rows * rank, seed + 1) // 256 * 2.0**-14, dtype)
    return (dtype, (rank, columns), a), (dtype, (rows, rank), b)

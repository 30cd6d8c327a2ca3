"""Models that are large and cost nothing: weights that are holes in a sparse file, and patches of random numbers."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.support.files import raw_file, safetensors_bytes, write_adapter_config

HIDDEN, INTERMEDIATE = 1024, 4096
MATRICES = {"gate_proj": (INTERMEDIATE, HIDDEN), "up_proj": (INTERMEDIATE, HIDDEN), "down_proj": (HIDDEN, INTERMEDIATE)}
LAYER_BYTES = 2 * 3 * HIDDEN * INTERMEDIATE  # bfloat16: 25 MB


def large_release(path: Path, layers: int, shards: int = 1, content: int | None = None) -> Path:
    """A Llama release of `layers` times 25 MB in bf16, only its MLP matrices.

    Args:
        path: the directory to write.
        layers: how many.
        shards: over how many files.
        content: seed of random weights; None for zeros, which are holes that take no space on disk.
    """
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": False}))
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" if shards > 1 else "model.safetensors" for i in range(shards)]
    weight_map = {}
    for shard, name in enumerate(names):
        offset, header = 0, {}
        for module, shape in _modules(range(shard, layers, shards)):
            size = 2 * shape[0] * shape[1]
            header[f"{module}.weight"] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
            offset += size
        weight_map |= dict.fromkeys(header, name)
        with (path / name).open("wb") as file:
            file.write(raw_file(header))
            end = file.tell() + offset
            if content is not None:
                file.write(_small_numbers(offset // 2, content + shard))
            file.truncate(end)
    if shards > 1:
        index = {"metadata": {"total_size": layers * LAYER_BYTES}, "weight_map": weight_map}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def large_patch(path: Path, layers: int, rank: int, seed: int) -> Path:
    """A patch on every matrix of `large_release`: random finite float16 factors, about `layers * rank * 31` kB."""
    path.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for number, (module, (rows, columns)) in enumerate(_modules(range(layers))):
        numbers = _small_numbers(rank * (rows + columns), 1000 * seed + number)
        cut = 2 * rank * columns
        tensors[f"base_model.model.{module}.lora_A.weight"] = ("F16", (rank, columns), numbers[:cut])
        tensors[f"base_model.model.{module}.lora_B.weight"] = ("F16", (rows, rank), numbers[cut:])
    (path / "adapter_model.safetensors").write_bytes(safetensors_bytes(tensors, {"format": "pt"}))
    write_adapter_config(path, r=rank, lora_alpha=rank, target_modules=list(MATRICES))
    return path


def _modules(layers: range) -> Iterator[tuple[str, tuple[int, int]]]:
    for layer in layers:
        for name, shape in MATRICES.items():
            yield f"model.layers.{layer}.mlp.{name}", shape


def _small_numbers(count: int, seed: int) -> bytes:
    """Random 16-bit patterns that are small finite numbers in float16 and in bfloat16: bits 15, 12, 11 and 8 to 0, no others."""
    return (np.random.default_rng(seed).integers(0, 2**16, count, "<u2") & 0x99FF).astype("<u2").tobytes()

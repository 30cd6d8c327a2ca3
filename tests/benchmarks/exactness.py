"""How far merged values are from the exact ones: ours and PEFT's default path against an independent float64 reference.

The reference is numpy's (OpenBLAS, one product per matrix), reads the files with a reader of its own and rounds by its own
arithmetic on lattices of powers of two: once through float32 as torch does, once directly to the stored dtype (ideal).
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.harness import PORTLLM, Options, measure, print_machine, print_table, settle, verdict
from tests.benchmarks.model import Model, one_layer

PEFT = Path(__file__).with_name("peft_merge.py")
ROWS = 512  # of a matrix at a time
AIM = 1e-6


@dataclass(frozen=True, slots=True)
class Float:
    """A floating-point format: bits of the significand after the point, and the exponent of the smallest normal number."""

    bits: int
    lowest: int
    stored: type[np.signedinteger[Any]]

    def round(self, x: np.ndarray) -> np.ndarray:
        """To the nearest number of the format, ties to even, exact in float64; `x` must be in the format's range."""
        _, exponent = np.frexp(x)
        unit = np.maximum(exponent - 1, self.lowest) - self.bits
        return np.ldexp(np.rint(np.ldexp(x, -unit)), unit)


FORMATS = {
    "bfloat16": Float(7, -126, np.int16),
    "float16": Float(10, -14, np.int16),
    "float32": Float(23, -126, np.int32),
}


@dataclass(slots=True)
class Tally:
    """Elements that differ from a reference, and the largest distance in units in the last place."""

    elements: int = 0
    differing: int = 0
    distance: int = 0

    def add(self, found: np.ndarray, expected: np.ndarray) -> None:
        apart = np.abs(_ordered(found) - _ordered(expected))
        self.elements += apart.size
        self.differing += int(np.count_nonzero(apart))
        self.distance = max(self.distance, int(apart.max()))

    def cells(self) -> tuple[str, str, str]:
        return f"{self.differing:,}", f"{self.differing / self.elements:.1e}", str(self.distance)


def run(options: Options) -> None:
    """Prints the share of differing elements and the largest distance, by dtype and by who computed."""
    models = {dtype: one_layer(options, dtype) for dtype in FORMATS}
    print_machine()
    rows, ours = [], []
    for dtype, model in models.items():
        outs = {"ours": options.work / "ours", "PEFT": options.work / "peft"}
        settle(*outs.values())
        measure([PORTLLM, "merge", model.base, model.patch, outs["ours"]])
        measure([sys.executable, PEFT, model.base, model.patch, outs["PEFT"]])
        tallies = _compare(model, dtype, outs)
        for who in outs:
            through, ideal = tallies[who, "through"], tallies[who, "ideal"]
            rows.append((f"{dtype}, {who}", f"{through.elements:,}", *through.cells(), *ideal.cells()))
        ours.append(tallies["ours", "through"])
        settle(*outs.values())
    columns = ("merged", "elements", "differing", "share", "max ulp", "from ideal", "share", "max ulp")
    print_table("against float64 rounded through float32 (as torch rounds), and rounded directly (ideal)", columns, rows)
    for dtype, tally in zip(models, ours, strict=True):
        share = tally.differing / tally.elements
        text = f"ours, {dtype}: {share:.1e} differ, at most {tally.distance} ulp (aim: {AIM:.0e}, 1 ulp)"
        verdict(text, share <= AIM and tally.distance <= 1)


def _compare(model: Model, dtype: str, outs: dict[str, Path]) -> dict[tuple[str, str], Tally]:
    kind, tallies = FORMATS[dtype], {(who, how): Tally() for who in outs for how in ("through", "ideal")}
    base = _tensors(model.base / "model.safetensors")
    patch = {n: _numbers(t) for n, t in _tensors(model.patch / "adapter_model.safetensors").items()}
    config = json.loads((model.patch / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    merged = {who: _tensors(out / "model.safetensors") for who, out in outs.items()}
    for key in sorted(k for k in patch if ".lora_A." in k):
        name = key.removeprefix("base_model.model.").replace(".lora_A.", ".")
        delta = scale * (patch[key.replace(".lora_A.", ".lora_B.")] @ patch[key])
        for row in range(0, len(delta), ROWS):
            rows = slice(row, row + ROWS)
            exact = _numbers(base[name][rows]) + delta[rows]
            for how, rounded in (("through", kind.round(FORMATS["float32"].round(exact))), ("ideal", kind.round(exact))):
                expected = _bits(rounded, dtype)
                for who in outs:
                    tallies[who, how].add(merged[who][name][rows].view(kind.stored), expected)
    return tallies


def _tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, memory-mapped; bf16 as its 16 bits."""
    kinds = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}
    data = np.memmap(path, np.uint8, "r")
    length = int(data[:8].view("<u8")[0])
    entries = json.loads(data[8 : 8 + length].tobytes())
    return {
        name: np.ndarray(e["shape"], kinds[e["dtype"]], data, 8 + length + e["data_offsets"][0])
        for name, e in entries.items()
        if name != "__metadata__"
    }


def _numbers(stored: np.ndarray) -> np.ndarray:
    """In float64; what is stored as 16 plain bits is bf16, the upper half of a float32."""
    if stored.dtype == np.uint16:
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float64)


def _bits(x: np.ndarray, dtype: str) -> np.ndarray:
    """The stored bits of numbers that the format holds exactly."""
    if dtype == "bfloat16":
        return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.int16)
    return x.astype(dtype).view(FORMATS[dtype].stored)


def _ordered(bits: np.ndarray) -> np.ndarray:
    """Whole numbers in the order of the values; neighbours are one unit in the last place apart, and both zeros are 0."""
    wide = bits.astype(np.int64)
    return np.where(wide < 0, np.iinfo(bits.dtype).min - wide, wide)

"""One recipe, one digest: whatever the threads, the size of the blocks, or the kernels of the processor."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from app.core import arithmetic
from app.core.adapter import WEIGHTS_FILE
from app.core.materialise import write_model
from app.core.recipe import BLOCK_ELEMENTS
from app.core.source import DirectorySource
from app.core.stream import Merger
from tests.support.files import encode, integers, write_base, write_patch
from tests.support.merging import digests, opened, read

WEIGHTS = "model.safetensors"
SHAPE, RANK = (700, 1200), 16
CHILD = """
import hashlib, sys
from pathlib import Path
from app.core.offline import open_merger
from app.core.recipe import Recipe
with open_merger(Path(sys.argv[1]), Path(sys.argv[2]), Recipe()) as (merger, _, _):
    digest = hashlib.sha256()
    for piece in merger.pieces("model.safetensors"):
        digest.update(piece.produce())
    print(digest.hexdigest())
"""


@pytest.fixture(scope="module", params=["BF16", "F32"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Factors with full significands and alpha/r = 5/16: the sums are not exact, so their order could show."""
    root, dtype = tmp_path_factory.mktemp("models"), str(request.param)
    modules = [f"model.layers.0.mlp.{n}" for n in ("up_proj", "gate_proj")]
    weights = {f"{m}.weight": (dtype, SHAPE, encode(numbers(SHAPE, i), dtype)) for i, m in enumerate(modules)}
    a, b = (("F32", s, encode(numbers(s, 7) ** 3 * 1e4, "F32")) for s in ((RANK, SHAPE[1]), (SHAPE[0], RANK)))
    patch = write_patch(root / "patch", dict.fromkeys(modules, (a, b)), lora_alpha=5)
    return write_base(root / "base", weights), patch


def numbers(shape: tuple[int, int], seed: int) -> np.ndarray:
    count = shape[0] * shape[1]
    return integers(count, seed) * 2.0**-20 + integers(count, seed + 1) * 2.0**-35


def test_threads_do_not_show(models: tuple[Path, Path], tmp_path: Path) -> None:
    found = set()
    with opened(*models) as merger:
        for threads in (1, 2, 7):
            write_model(merger, tmp_path / str(threads), threads=threads)
            found.add(digests(tmp_path / str(threads))[WEIGHTS])
            found.add(hashlib.sha256(read(merger, WEIGHTS, threads=threads)).hexdigest())
    assert len(found) == 1


@pytest.mark.parametrize("block_elements", [2**14, 2**16, 2**20, 1])
def test_blocks_do_not_show(block_elements: int, models: tuple[Path, Path]) -> None:
    """Float64 makes the noise of another block vanish in the rounding."""
    with opened(*models) as merger, DirectorySource(models[0]) as base, DirectorySource(models[1]) as patch:
        start = int.from_bytes((models[1] / WEIGHTS_FILE).read_bytes()[:8], "little") + 8
        other = Merger(merger.plan, {"base": base, "patch": patch}, WEIGHTS_FILE, start, arithmetic.load(), block_elements)
        assert block_elements != BLOCK_ELEMENTS
        assert read(other, WEIGHTS) == read(merger, WEIGHTS)


def test_kernels_do_not_show(models: tuple[Path, Path]) -> None:
    """SSE4.2, AVX2 and whatever this processor has, each in a process of its own."""
    found = set()
    for mkl, aten in (("SSE4_2", "default"), ("AVX2", "avx2")):
        settings = os.environ | {"MKL_ENABLE_INSTRUCTIONS": mkl, "ATEN_CPU_CAPABILITY": aten}
        done = subprocess.run([sys.executable, "-c", CHILD, *models], check=True, capture_output=True, text=True, env=settings)
        found.add(done.stdout.strip())
    with opened(*models) as merger:
        found.add(hashlib.sha256(read(merger, WEIGHTS)).hexdigest())
    assert len(found) == 1

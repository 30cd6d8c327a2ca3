"""One sha256 for the same recipe, whatever computes it: threads, block sizes, instruction sets.

Children compute three one-layer models (61 M elements each, in bf16, fp16 and fp32). What really varies:

- `ATEN_CPU_CAPABILITY` chooses torch's own kernels (conversion, addition).
- `MKL_ENABLE_INSTRUCTIONS` and `MKL_CBWR` choose MKL's product kernel, but on processors that are not Intel's, MKL ignores
  all of their values but `MKL_CBWR=COMPATIBLE` (seen with perf on an AMD Zen 4: mkl_blas_def_dgemm_kernel_zen for every
  other value). So where there is a C compiler, a shim tells MKL that the processor is Intel's; perf then saw the kernels
  mkl_blas_mc3_dgemm (SSE4.2), mkl_blas_avx2_dgemm and mkl_blas_avx512_dgemm.

The column "product" is a digest of a plain float64 product in the same child: where it differs from the first row, another
kernel has run for certain, and the float64 values before rounding differ.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from app.core.checkpoint import SINGLE_FILE
from app.core.recipe import BLOCK_ELEMENTS
from tests.benchmarks.harness import Options, print_machine, print_table, verdict
from tests.benchmarks.model import Model, one_layer

DTYPES = {"bfloat16": 2, "float16": 2, "float32": 4}
SHIM = "int mkl_serv_intel_cpu_true(void) { return 1; }"


@dataclass(frozen=True, slots=True)
class Case:
    """How a child computes."""

    label: str
    env: dict[str, str] = field(default_factory=dict)
    threads: int = 2
    elements: int = BLOCK_ELEMENTS


def run(options: Options) -> None:
    """Prints digests by case and, where any differ from the first, how many elements do."""
    models = {dtype: one_layer(options, dtype) for dtype in DTYPES}
    print_machine()
    rows, equal, products = [], 0, set()
    cases = _cases(options.work)
    reference: dict[str, str] = {}
    for number, case in enumerate(cases):
        out = options.work / ("reference" if number == 0 else "compared")
        found = _child(case, models, out)
        reference = reference or found
        products.add(found["product"])
        marks = [found[d][:12] if found[d] == reference[d] else _difference(options.work, d) for d in DTYPES]
        equal += all(found[d] == reference[d] for d in DTYPES)
        rows.append((case.label, found["capability"], found["product"][:8], *marks))
    for name in ("reference", "compared"):
        shutil.rmtree(options.work / name)
    print_table("sha256 of the merged shard", ("case", "torch uses", "product", *DTYPES), rows)
    print(f"kernels whose float64 products differ from one another: {len(products)}")
    verdict(f"{equal} of {len(cases)} cases gave the bytes of the first (aim: all)", equal == len(cases))


def _cases(work: Path) -> list[Case]:
    def mkl(value: str) -> dict[str, str]:
        return {"MKL_ENABLE_INSTRUCTIONS": value}

    cases = [
        Case("2 threads, recipe's grid"),
        Case("1 thread", threads=1),
        Case("7 threads", threads=7),
        *(Case(f"blocks of 2^{n}", elements=2**n) for n in (16, 20)),
        Case("blocks of 3 rows", elements=3 * 2048),
        *(Case(f"ATEN_CPU_CAPABILITY={v}", {"ATEN_CPU_CAPABILITY": v}) for v in ("default", "avx2", "avx512")),
        *(Case(f"MKL_ENABLE_INSTRUCTIONS={v}", mkl(v)) for v in ("SSE4_2", "AVX2", "AVX512")),
        *(Case(f"MKL_CBWR={v}", {"MKL_CBWR": v}) for v in ("COMPATIBLE", "AVX2", "AVX512")),
    ]
    if shim := _shim(work):
        taken = {"LD_PRELOAD": str(shim)}
        cases += [Case(f"MKL taken for Intel, {v}", taken | mkl(v)) for v in ("SSE4_2", "AVX2", "AVX512")]
        plain = {"ATEN_CPU_CAPABILITY": "default"} | taken | mkl("SSE4_2")
        cases.append(Case("the same SSE4_2, torch default, 1 thread, 2^16", plain, 1, 2**16))
    else:
        print("no C compiler: MKL's kernels for Intel processors are not compared")
    return cases


def _shim(work: Path) -> Path | None:
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    source, target = work / "intel.c", work / "intel.so"
    source.write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", target, source], check=True)
    return target


def _child(case: Case, models: dict[str, Model], out: Path) -> dict[str, str]:
    out.mkdir(exist_ok=True)
    work = {d: [str(m.base), str(m.patch), str(out / d)] for d, m in models.items()}
    specification = json.dumps({"threads": case.threads, "elements": case.elements, "work": work})
    command = [sys.executable, "-m", "tests.benchmarks.reproducibility", specification]
    done = subprocess.run(command, env={**os.environ, **case.env}, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _difference(work: Path, dtype: str) -> str:
    import numpy as np

    one, other = (np.memmap(work / name / dtype, np.uint8, "r") for name in ("reference", "compared"))
    differing = (one != other).nonzero()[0] // DTYPES[dtype]
    return f"{len(np.unique(differing))} of {len(one) // DTYPES[dtype]:,} differ"


def _compute(specification: str) -> None:
    """The child: writes the merged shards and prints their digests."""
    import torch

    from tests.benchmarks.mergers import mergers

    spec = json.loads(specification)
    found = {"capability": torch.backends.cpu.get_cpu_capability(), "product": _product()}
    for dtype, (base, patch, target) in spec["work"].items():
        digest = hashlib.sha256()
        with (
            mergers(Model(Path(base), Path(patch), 0)) as merger_of,
            ThreadPoolExecutor(spec["threads"]) as pool,
            Path(target).open("wb") as file,
        ):
            for data in merger_of(spec["elements"]).stream(SINGLE_FILE, pool=pool):
                digest.update(data)
                file.write(data)
        found[dtype] = digest.hexdigest()
    print(json.dumps(found))


def _product() -> str:
    import torch

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    b, a = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((128, 16), (16, 2048)))
    return hashlib.sha256(torch.mm(b, a).numpy().tobytes()).hexdigest()


if __name__ == "__main__":
    _compute(sys.argv[1])

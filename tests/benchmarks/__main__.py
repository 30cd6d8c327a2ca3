"""`python -m tests.benchmarks [NAME ...] [--small] [--work DIR]`: without a name, all of them, one process each."""

import argparse
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.harness import Options

BENCHMARKS = {
    "merge": "portllm merge against PEFT, cp and import torch, each as a whole process",
    "memory": "peak memory of portllm merge, for a model and one twice as large",
    "blocks": "GB/s by block size: backs BLOCK_ELEMENTS in app/core/recipe.py",
    "exactness": "differing elements and ulp distance against an independent float64 reference, ours and PEFT's",
    "streaming": "a merged shard over HTTP against a static file from the same server",
    "first_byte": "port request to first byte of the merged model, for a model and one twice as large",
    "jobs": "jobs a second with two workers on PostgreSQL, and the time until a dead worker's job is taken over",
    "api_load": "requests/s and latencies with 100,000 patches in PostgreSQL, beside MLflow's model registry",
    "s3_materialise": "a merged model written inside S3, against download, merge and upload of the same",
    "hub_push": "a patch of 1 GiB pushed by a stock huggingface_hub, by Xet and by LFS, and the memory of the service",
    "accelerator": "one sha256, and GB/s, on the CPU and on the accelerator of this machine",
    "reproducibility": "one sha256 under 1 and 2 threads, several block sizes and instruction sets",
}


def main() -> int:
    """Runs what was asked for; the exit code is 1 when one of them failed."""
    listing = "\n".join(f"  {name:<16} {text}" for name, text in BENCHMARKS.items())
    parser = argparse.ArgumentParser("tests.benchmarks", None, __doc__, listing, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--small", action="store_true", help="a model of a few million parameters: checks that the script works")
    parser.add_argument(
        "--work", type=Path, help="where models are built and kept (about 8 GB); default: below the temp directory"
    )
    parser.add_argument("--runs", type=int, default=5, help="interleaved runs of each contestant (default: 5)")
    arguments = parser.parse_args()
    if unknown := [n for n in arguments.names if n not in BENCHMARKS]:
        parser.error(f"unknown benchmark {unknown[0]}\n{listing}")
    if len(arguments.names) != 1:
        # A process each: peak memory and import times must not depend on what ran before.
        each = [(sys.executable, "-m", "tests.benchmarks", name) for name in arguments.names or BENCHMARKS]
        options = [a for a in sys.argv[1:] if a not in arguments.names]
        return max(subprocess.run([*command, *options], check=False).returncode for command in each)
    name = arguments.names[0]
    work = arguments.work or Path(tempfile.gettempdir(), "bench-portllm")
    work.mkdir(parents=True, exist_ok=True)
    importlib.import_module(f"tests.benchmarks.{name}").run(Options(work.resolve(), arguments.small, arguments.runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Builds the environments: `python -m tests.clients_matrix.build DIRECTORY`, once; what is there and complete is left alone.

torch comes without what it names as its needs, but from the same place as for the tests: a CPU build where TORCH_INDEX has one.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

TORCH = "torch==2.13.0"
# What torch needs to compute on a CPU.
UNDER_TORCH = ("filelock", "typing-extensions", "sympy", "networkx", "jinja2", "fsspec", "numpy", "setuptools")
ENVIRONMENTS = {
    "hub-0.36": ("huggingface_hub==0.36.2", "transformers==4.57.6", "peft==0.17.1"),
    "hub-1.33": ("huggingface_hub==1.33.0", "transformers==5.23.0", "peft==0.21.2"),
    "hub-2.4": ("huggingface_hub==2.4.0", "transformers==5.23.0", "peft==0.21.2"),
}
DONE = ".complete"


def python_of(root: Path, name: str) -> str:
    return str(root / name / "bin" / "python")


def build(root: Path, name: str) -> None:
    """One environment; the mark that it is complete comes last."""
    mark = root / name / DONE
    wanted = "\n".join([TORCH, *ENVIRONMENTS[name]])
    if mark.exists() and mark.read_text() == wanted:
        return
    venv.create(root / name, clear=True, with_pip=True)
    pip = [python_of(root, name), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    index = os.environ.get("TORCH_INDEX")
    subprocess.run([*pip, "--no-deps", TORCH, *(["--extra-index-url", index] if index else [])], check=True)
    subprocess.run([*pip, *UNDER_TORCH], check=True)
    # accelerate and peft name torch as a need; it is there by now, and is not replaced.
    subprocess.run([*pip, TORCH.partition("==")[0], *ENVIRONMENTS[name]], check=True)
    mark.write_text(wanted)


if __name__ == "__main__":
    for each, packages in ENVIRONMENTS.items():
        sys.stdout.write(f"{each}: {packages}\n")
        sys.stdout.flush()
        build(Path(sys.argv[1]), each)


ROOT = os.environ.get("PORTLLM_CLIENTS", "")

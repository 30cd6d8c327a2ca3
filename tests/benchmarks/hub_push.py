"""A patch of 1 GiB pushed by a stock huggingface_hub, by Xet and by LFS, beside `portllm patch push` of the same.

One push each, to a service of its own, so that its peak is that push's. Client and service share the machine, and the client
hashes, cuts and packs what it sends: the time is that of both.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.harness import MIB, Options, print_machine, print_table, verdict, warm
from tests.benchmarks.server import FAMILY, OWNER, PATCH, Running, service
from tests.support.files import write_adapter_config
from tests.support.sparse_models import MATRICES, large_patch, large_release

LAYERS, RANK, SMALL_RANK = 8, 4096, 64
LIMIT_MIB = 256  # what a push may add to the peak of a service at rest
CLIENT = """
import sys, time
from huggingface_hub import HfApi
api, began = HfApi(), time.perf_counter()
api.create_repo(sys.argv[1], exist_ok=True)
api.upload_folder(repo_id=sys.argv[1], folder_path=sys.argv[2])
print(time.perf_counter() - began)
"""


@dataclass(frozen=True)
class Pushed:
    """Seconds, and peaks of the service in bytes, before and at the end."""

    seconds: float
    before: int
    peak: int


def run(options: Options) -> None:
    """Prints a row for each way, and whether each stayed within its bound."""
    root = options.work / "hub-push"
    shutil.rmtree(root, ignore_errors=True)
    rank = SMALL_RANK if options.small else RANK
    base = large_release(root / "v1", LAYERS)
    patch = large_patch(root / "patch", LAYERS, rank, seed=5)
    write_adapter_config(
        patch, r=rank, lora_alpha=rank, target_modules=list(MATRICES), base_model_name_or_path=f"base/{FAMILY}", revision="v1"
    )
    size = (patch / "adapter_model.safetensors").stat().st_size
    print_machine()
    warm(patch)
    ways: dict[str, Callable[[Running], float]] = {
        "huggingface_hub, Xet": lambda running: _stock(running, root, patch),
        "huggingface_hub, LFS": lambda running: _stock(running, root, patch, HF_HUB_DISABLE_XET="1"),
        "portllm patch push": lambda running: _own(running, patch),
    }
    found = {name: _push(root, base, way) for name, way in ways.items()}
    shutil.rmtree(root)
    rows = [
        (name, f"{p.seconds:.1f}", f"{size / p.seconds / 1e6:.0f}", _mib(p.before), _mib(p.peak)) for name, p in found.items()
    ]
    columns = ("", "s", "MB/s", "service before, MiB", "service at most, MiB")
    print_table(f"A patch of {size / 2**30:.2f} GiB, one push each", columns, rows)
    for name, pushed in found.items():
        more = (pushed.peak - pushed.before) / MIB
        verdict(f"{name}: the service grew by {more:.0f} MiB at most (bound: {LIMIT_MIB})", more <= LIMIT_MIB)


def _push(root: Path, base: Path, way: Callable[[Running], float]) -> Pushed:
    data = root / "data"
    with service(data, root) as running:
        running.register("v1", base)
        before = _peak(running)
        seconds = way(running)
        version = running.client.get(f"/patches/{OWNER}/{PATCH}/versions/1")
        if version["state"] != "published":
            raise SystemExit(f"nothing was published: {version}")
        pushed = Pushed(seconds, before, _peak(running))
    shutil.rmtree(data)
    return pushed


def _stock(running: Running, root: Path, patch: Path, **more: str) -> float:
    token = running.client.http.headers["Authorization"].removeprefix("Bearer ")
    mine = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    variables = {**mine, "HF_ENDPOINT": running.client.url, "HF_TOKEN": token, "HF_HOME": str(root / "home"), **more}
    command = [sys.executable, "-c", CLIENT, f"{OWNER}/{PATCH}", str(patch)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return float(done.stdout.split()[-1])


def _own(running: Running, patch: Path) -> float:
    token = running.client.http.headers["Authorization"].removeprefix("Bearer ")
    variables = {**os.environ, "PORTLLM_URL": running.client.url, "PORTLLM_TOKEN": token}
    command = [sys.executable, "-m", "app.cli.main", "patch", "push", f"{OWNER}/{PATCH}", str(patch), "--family", FAMILY]
    began = time.perf_counter()
    done = subprocess.run([*command, "--trained-on", "v1", "--json"], env=variables, capture_output=True, text=True, check=False)
    if done.returncode or json.loads(done.stdout).get("number") != 1:
        raise SystemExit(done.stdout + done.stderr)
    return time.perf_counter() - began


def _peak(running: Running) -> int:
    lines = Path(f"/proc/{running.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def _mib(size: int) -> str:
    return f"{size / MIB:.0f}"

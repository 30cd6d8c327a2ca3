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
from tests.live.models import MATRICES, large_patch, large_release
from tests.support.files import write_adapter_config

LAYERS, RANK, SMALL_RANK = 8, 4096, 64
LIMIT_MIB = 256  # what a push may add to the peak of a service at rest
CLIENT = """
import resource, sys, time
from huggingface_hub import HfApi
api, began = HfApi(), time.perf_counter()
api.create_repo(sys.argv[1], exist_ok=True)
api.upload_folder(repo_id=sys.argv[1], folder_path=sys.argv[2])
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@dataclass(frozen=True)
class Pushed:
    """Seconds, and peaks in bytes: of the client, of the service before and at the end."""

    seconds: float
    client: int
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
    ways: dict[str, Callable[[Running], tuple[float, int]]] = {
        "huggingface_hub, Xet": lambda running: _stock(running, root, patch),
        "huggingface_hub, LFS": lambda running: _stock(running, root, patch, HF_HUB_DISABLE_XET="1"),
        "portllm patch push": lambda running: _own(running, patch),
    }
    found = {name: _push(root, base, way) for name, way in ways.items()}
    shutil.rmtree(root)
    rows = [
        (name, f"{p.seconds:.1f}", f"{size / p.seconds / 1e6:.0f}", _mib(p.client), _mib(p.before), _mib(p.peak))
        for name, p in found.items()
    ]
    columns = ("", "s", "MB/s", "client MiB", "service before, MiB", "service at most, MiB")
    print_table(f"A patch of {size / 2**30:.2f} GiB, one push each", columns, rows)
    for name, pushed in found.items():
        more = (pushed.peak - pushed.before) / MIB
        verdict(f"{name}: the service grew by {more:.0f} MiB at most (bound: {LIMIT_MIB})", more <= LIMIT_MIB)


def _push(root: Path, base: Path, way: Callable[[Running], tuple[float, int]]) -> Pushed:
    data = root / "data"
    with service(data, root) as running:
        running.register("v1", base)
        before = _peak(running)
        seconds, client = way(running)
        version = running.client.get(f"/patches/{OWNER}/{PATCH}/versions/1")
        if version["state"] != "published":
            raise SystemExit(f"nothing was published: {version}")
        pushed = Pushed(seconds, client, before, _peak(running))
    shutil.rmtree(data)
    return pushed


def _stock(running: Running, root: Path, patch: Path, **more: str) -> tuple[float, int]:
    token = running.client.http.headers["Authorization"].removeprefix("Bearer ")
    mine = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    variables = {**mine, "HF_ENDPOINT": running.client.url, "HF_TOKEN": token, "HF_HOME": str(root / "home"), **more}
    command = [sys.executable, "-c", CLIENT, f"{OWNER}/{PATCH}", str(patch)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    seconds, peak = done.stdout.split()[-2:]
    return float(seconds), int(peak) * 1024


def _own(running: Running, patch: Path) -> tuple[float, int]:
    token = running.client.http.headers["Authorization"].removeprefix("Bearer ")
    variables = {**os.environ, "PORTLLM_URL": running.client.url, "PORTLLM_TOKEN": token}
    command = [sys.executable, "-m", "app.cli.main", "patch", "push", f"{OWNER}/{PATCH}", str(patch), "--family", FAMILY]
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--trained-on", "v1", "--json"], env=variables, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status or json.loads(said).get("number") != 1:
        raise SystemExit(said)
    return time.perf_counter() - began, usage.ru_maxrss * 1024


def _peak(running: Running) -> int:
    lines = Path(f"/proc/{running.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def _mib(size: int) -> str:
    return f"{size / MIB:.0f}"

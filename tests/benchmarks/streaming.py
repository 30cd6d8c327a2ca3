"""GB/s of a merged shard over HTTP against a static file of the same size from the same server; interleaved runs."""

import http.client
import shutil
import statistics
import time
import urllib.parse
from pathlib import Path

from tests.benchmarks.harness import Options, print_machine, print_table, spread, verdict, warm
from tests.benchmarks.model import main_model
from tests.benchmarks.server import OWNER, PATCH, Running, service

SHARD = "model.safetensors"
BUFFER = 2**20


def run(options: Options) -> None:
    """Prints GB/s of both, and the ratio of the medians."""
    model = main_model(options)
    data = options.work / "registry-streaming"
    shutil.rmtree(data, ignore_errors=True)
    print_machine()
    warm(model.base)
    with service(data, options.work) as running:
        running.register("v1", model.base)
        running.publish(model.patch, "v1")
        port = running.client.post("/ports", {"patch": f"{OWNER}/{PATCH}", "release": "v1"})
        merged = f"/api/v1/ports/{port['id']}/files/{SHARD}"
        static = f"/static/{(model.base / SHARD).relative_to(options.work)}"
        times: dict[str, list[float]] = {"merged while it is read": [], "static file": []}
        for _ in range(options.runs):
            for name, path in zip(times, (merged, static), strict=True):
                times[name].append(_gigabytes_per_second(running, path, (model.base / SHARD).stat().st_size))
        peak = _peak(running.process.pid)
    shutil.rmtree(data)
    middle = {name: statistics.median(t) for name, t in times.items()}
    rows = [(name, spread(t)) for name, t in times.items()]
    print_table(f"{options.runs} interleaved reads of {(model.base / SHARD).stat().st_size / 1e9:.2f} GB", ("", "GB/s"), rows)
    print(f"peak memory of the service: {peak / 2**20:.0f} MiB")
    ratio = middle["merged while it is read"] / middle["static file"]
    verdict(f"a merged shard streams at {ratio:.2f} times the speed of a static file (aim: 1)", ratio >= 1)


def _gigabytes_per_second(running: Running, path: str, size: int) -> float:
    """Reads a whole body into one buffer, with as little client as Python has."""
    address = urllib.parse.urlsplit(running.client.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port)
    buffer, total, start = bytearray(BUFFER), 0, time.perf_counter()
    connection.request("GET", path, headers={"Authorization": running.client.http.headers["Authorization"]})
    response = connection.getresponse()
    while count := response.readinto(buffer):
        total += count
    seconds = time.perf_counter() - start
    connection.close()
    if total != size:
        raise SystemExit(f"{path}: {total} of {size} bytes ({response.status})")
    return total / seconds / 1e9


def _peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024

"""GB/s of a merged shard over HTTP, of a static file of the same size from the same server, and of the merged file from nginx.

Interleaved runs. nginx serves what `portllm merge` wrote; where it is not installed, that column is left out and said so.
"""

import http.client
import os
import shutil
import socket
import statistics
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.core.offline import merge
from tests.benchmarks.harness import Options, print_machine, print_table, spread, verdict, warm
from tests.benchmarks.model import Model, main_model
from tests.benchmarks.server import OWNER, PATCH, service

SHARD = "model.safetensors"
BUFFER = 2**20
OURS, STATIC, NGINX = "merged while it is read", "static file", "nginx, written before"


def run(options: Options) -> None:
    """Prints GB/s of both, and the ratio of the medians."""
    model = main_model(options)
    data = options.work / "registry-streaming"
    shutil.rmtree(data, ignore_errors=True)
    print_machine()
    warm(model.base)
    with _nginx(model, options.work) as nginx, service(data, options.work) as running:
        running.register("v1", model.base)
        running.publish(model.patch, "v1")
        port = running.client.post("/ports", {"patch": f"{OWNER}/{PATCH}", "release": "v1"})
        merged = f"/api/v1/ports/{port['id']}/files/{SHARD}"
        static = f"/static/{(model.base / SHARD).relative_to(options.work)}"
        hub = f"/{OWNER}/{PATCH}.merged/resolve/v1/{SHARD}"
        authorization, own = str(running.client.http.headers["Authorization"]), running.client.url
        places = {OURS: (own, merged), "the same by the Hub's address": (own, hub), STATIC: (own, static)}
        if nginx:
            places[NGINX] = (nginx, f"/{SHARD}")
        times: dict[str, list[float]] = {name: [] for name in places}
        for _ in range(options.runs):
            for name, (url, path) in places.items():
                times[name].append(_gigabytes_per_second(url, path, authorization, (model.base / SHARD).stat().st_size))
        peak = _peak(running.process.pid)
    shutil.rmtree(data)
    middle = {name: statistics.median(t) for name, t in times.items()}
    rows = [(name, spread(t)) for name, t in times.items()]
    print_table(f"{options.runs} interleaved reads of {(model.base / SHARD).stat().st_size / 1e9:.2f} GB", ("", "GB/s"), rows)
    print(f"peak memory of the service: {peak / 2**20:.0f} MiB")
    ratio = middle[OURS] / middle[STATIC]
    verdict(f"a merged shard streams at {ratio:.2f} times the speed of a static file (aim: 1)", ratio >= 1)
    if NGINX in middle:
        print(f"nginx gives the file that was written before at {middle[NGINX] / middle[OURS]:.1f} times that speed")
    else:
        print("nginx is not installed: not compared")


@contextmanager
def _nginx(model: Model, work: Path) -> Iterator[str | None]:
    """nginx with the merged model as files, written before; its address, or None where there is no nginx."""
    program, place = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"), work / "nginx"
    if program is None:
        yield None
        return
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    merge(model.base, model.patch, place / "files")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    temporary = "".join(f"{kind}_temp_path {place}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (place / "nginx.conf").write_text(
        f"daemon off; user root; pid {place}/pid; error_log {place}/errors; events {{}} http {{ access_log off; sendfile on; "
        f"{temporary} server {{ listen 127.0.0.1:{port}; root {place}/files; }} }}"
    )
    process = subprocess.Popen([program, "-p", str(place), "-e", str(place / "errors"), "-c", str(place / "nginx.conf")])
    try:
        time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(place)


def _gigabytes_per_second(url: str, path: str, authorization: str, size: int) -> float:
    """Reads a whole body into one buffer, with as little client as Python has."""
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port)
    buffer, total, start = bytearray(BUFFER), 0, time.perf_counter()
    connection.request("GET", path, headers={"Authorization": authorization})
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

"""Seconds from asking for a port to the first byte of its merged model, for a model and one twice as large.

The first port to a release samples both releases; the next ones remember what was found.
"""

import http.client
import shutil
import time
import urllib.parse
from pathlib import Path

from tests.benchmarks.harness import Options, print_machine, print_table, settle, verdict, warm
from tests.benchmarks.model import Model, larger_model, main_model
from tests.benchmarks.server import OWNER, PATCH, Running, service

SHARD = "model.safetensors"
AIM = 1.0


def run(options: Options) -> None:
    """Prints seconds by model and kind of request."""
    print_machine()
    rows, worst = [], 0.0
    for model in (main_model(options), larger_model(options)):
        next_base = _continued(model, options.work / "continued")
        data = options.work / "registry-first-byte"
        shutil.rmtree(data, ignore_errors=True)
        with service(data, options.work) as running:
            running.register("v1", model.base)
            running.register("v2", next_base, "v1")
            running.publish(model.patch, "v1")
            warm(model.base)
            warm(next_base)
            # Other tokenizer or dtype, other port: each recipe is asked for once.
            first = _seconds(running, {"dtype": None})
            again = _seconds(running, {"dtype": "float32"})
        settle(data, next_base)
        worst = max(worst, first, again)
        rows.append((f"{model.parameters / 1e9:.2f} B parameters", f"{first:.2f}", f"{again:.2f}"))
    print_table("from POST /ports to the first byte of the shard", ("", "first port to the release, s", "next port, s"), rows)
    verdict(f"the slowest took {worst:.2f} s (aim: under {AIM:.0f} s)", worst < AIM)


def _continued(model: Model, target: Path) -> Path:
    """A copy of the base that differs in one value, so that it is another release whose weights must be sampled."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(model.base, target)
    with (target / SHARD).open("r+b") as file:
        file.seek(-2, 2)
        file.write(b"\x00\x3f")
    return target


def _seconds(running: Running, recipe: dict[str, str | None]) -> float:
    address = urllib.parse.urlsplit(running.client.url)
    start = time.perf_counter()
    port = running.client.post("/ports", {"patch": f"{OWNER}/{PATCH}", "release": "v2", "recipe": recipe})
    connection = http.client.HTTPConnection(str(address.hostname), address.port)
    headers = {"Authorization": running.client.http.headers["Authorization"]}
    connection.request("GET", f"/api/v1/ports/{port['id']}/files/{SHARD}", headers=headers)
    response = connection.getresponse()
    if not response.read(1):
        raise SystemExit(f"no byte came: {response.status} {port}")
    seconds = time.perf_counter() - start
    connection.close()
    return seconds

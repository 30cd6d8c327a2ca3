"""Merged models read on workers: redirected, proxied, refused without a signature, and served by the service itself otherwise."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest

from app.core.arithmetic import best_device
from app.core.offline import merge
from app.core.recipe import Recipe
from app.domain.signing import sign_read
from tests.support.merging import digests
from tests.support.registry import refused
from tests.support.service_process import invoke, until
from tests.support.workers import SECRET, Cluster, Fleet, Worker

NO_PLACE = {"PORTLLM_MERGED_READS": "0"}


@dataclass
class Reads:
    """A service with a ready port; `merged` is what the offline merge writes, `computed` the files that are not carried."""

    fleet: Fleet
    client: httpx.Client
    worker: Worker
    url: str
    port: str
    merged: Path
    computed: list[str]

    def path(self, name: str) -> str:
        return f"/ports/{self.port}/files/{name}"

    def location(self, name: str) -> str:
        answer = self.client.get(self.path(name))
        assert answer.status_code == 307, answer.text
        return answer.headers["Location"]


@pytest.fixture(scope="module")
def fleet(cluster: Cluster, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A service that has no place to read a merged model itself: what it hands out came from a worker."""
    service = Fleet(tmp_path_factory.mktemp("reads"), cluster.database(), models, **NO_PLACE)
    service.start()
    yield service
    service.kill()


@pytest.fixture(scope="module")
def reads(fleet: Fleet, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reads]:
    env = fleet.variables()
    with fleet.working(("--listen", "127.0.0.1:0"), PORTLLM_MERGED_READS="8") as (worker,):
        for command in (
            ["release", "add", "llama", "v1", "--from", models / "v1", "--wait"],
            ["release", "add", "llama", "v2", "--from", models / "v2", "--wait"],
            ["patch", "push", "acme/tone", models / "patch", "--family", "llama", "--trained-on", "v1"],
        ):
            done = invoke(*command, **env)
            assert done.exit_code == 0, done.output
        made = invoke("port", "acme/tone", "--to", "v2", "--dtype", "bfloat16", "--json", **env)
        assert made.exit_code == 0, made.output
        port = json.loads(made.stdout)["id"]
        out = tmp_path_factory.mktemp("merged") / "out"
        merge(models / "v2", models / "patch", out, Recipe(dtype="bfloat16"))
        with fleet.client() as client:
            files = client.get(f"/ports/{port}/files").raise_for_status().json()["files"]
            computed = [f["path"] for f in files if f["computed"]]
            assert len(computed) >= 2
            (shown,) = [w for w in client.get("/workers").json()["items"] if w["alive"]]
            yield Reads(fleet, client, worker, shown["url"], port, out, computed)


def test_a_read_is_sent_to_the_worker(reads: Reads) -> None:
    """307 to an address that works without a token and gives the bytes of the offline merge, whole and by ranges."""
    for name in reads.computed:
        location, expected = reads.location(name), (reads.merged / name).read_bytes()
        assert location.startswith(reads.url + "/ports/")
        whole = httpx.get(location)
        assert (whole.status_code, whole.content) == (200, expected)
        own = reads.client.head(reads.path(name))
        for header in ("ETag", "Content-Length", "Content-Type", "Accept-Ranges", "Cache-Control"):
            assert whole.headers[header] == own.headers[header]
        cut = httpx.get(location, headers={"Range": "bytes=5-99", "If-Range": whole.headers["ETag"]})
        assert (cut.status_code, cut.content) == (206, expected[5:100])
        assert cut.headers["Content-Range"] == f"bytes 5-99/{len(expected)}"
        assert httpx.get(location, headers={"If-None-Match": whole.headers["ETag"]}).status_code == 304
        head = httpx.head(location)
        assert (head.status_code, head.content, head.headers["ETag"]) == (200, b"", whole.headers["ETag"])


def test_what_the_service_answers_itself(reads: Reads) -> None:
    """HEAD, 304, ranges outside and files that are not there need no worker, nor do files that are carried as they are."""
    name = reads.computed[0]
    etag = reads.client.head(reads.path(name)).headers["ETag"]
    assert reads.client.get(reads.path(name), headers={"If-None-Match": etag}).status_code == 304
    refused(reads.client.get(reads.path(name), headers={"Range": "bytes=999999999-"}), 416, "request.range")
    refused(reads.client.get(reads.path("nope")), 404, "output.unknown_file")
    carried = next(p.name for p in reads.merged.iterdir() if p.name not in reads.computed)
    own = reads.client.get(reads.path(carried))  # needs no place, and it has none
    assert (own.status_code, own.content) == (200, (reads.merged / carried).read_bytes())


def test_a_read_is_proxied(reads: Reads) -> None:
    """For clients that must not follow: the same bytes through the service, which computes none."""
    for name in reads.computed:
        expected = (reads.merged / name).read_bytes()
        whole = reads.client.get(reads.path(name), params={"redirect": "false"})
        assert (whole.status_code, whole.content) == (200, expected)
        cut = reads.client.get(reads.path(name), params={"redirect": "false"}, headers={"Range": "bytes=-7"})
        assert (cut.status_code, cut.content) == (206, expected[-7:])
        assert cut.headers["Content-Range"].endswith(f"/{len(expected)}")
        assert cut.headers["ETag"] == whole.headers["ETag"]


def test_an_address_is_good_for_one_file_and_a_while(reads: Reads) -> None:
    """Any other file, port, worker or time than the one that was signed is refused, as is a signature of somebody else's."""
    name, other = reads.computed[:2]
    good = urlsplit(reads.location(name))
    query = dict(parse_qsl(good.query))

    def ask(path: str = good.path, **changed: str) -> httpx.Response:
        return httpx.get(f"{reads.url}{path}?{urlencode(query | changed)}")

    assert ask().status_code == 200
    expires = int(query["expires"])
    assert time.time() < expires < time.time() + 600
    digit = "0" if query["signature"][0] != "0" else "1"
    for tampered in (
        ask(good.path.replace(name, other)), ask(expires=str(expires + 1)), ask(signature=digit + query["signature"][1:]),
        ask(signature=""), ask(signature=sign_read(b"another key", reads.worker.id, reads.port, name, expires, query["token"])),
        ask(signature=sign_read(SECRET.encode(), "another:1:worker", reads.port, name, expires, query["token"])),
        ask(token=""), ask(token="tok_another"),
    ):  # fmt: skip
        refused(tampered, 403, "worker.signature")
    past = int(time.time()) - 1
    signed = sign_read(SECRET.encode(), reads.worker.id, reads.port, name, past, query["token"])
    refused(ask(expires=str(past), signature=signed), 403, "worker.expired")
    unsigned = httpx.get(f"{reads.url}{good.path}")
    assert unsigned.status_code == 422
    assert unsigned.headers["content-type"] == "application/problem+json"
    assert httpx.get(f"{reads.url}{good.path}", headers={"Authorization": f"Bearer {reads.fleet.token}"}).status_code == 422


def test_what_a_worker_says_of_itself(reads: Reads) -> None:
    """Health, readiness, and what it is; nothing else is there."""
    assert httpx.get(f"{reads.url}/healthz").json() == {"status": "ok"}
    ready = httpx.get(f"{reads.url}/readyz").json()
    assert (ready["status"], ready["parts"].keys()) == ("ok", {"database", "writes", "blobs", "jobs", "keys", "workers"})
    about = httpx.get(f"{reads.url}/about").json()
    assert (about["id"], about["class_name"], about["device"]) == (reads.worker.id, "cpu", best_device().name)
    for path in ("/docs", "/openapi.json", "/api/v1/ports"):
        refused(httpx.get(reads.url + path), 404, "request.route")


def test_clients_of_the_hub_get_the_bytes_by_way_of_a_worker(reads: Reads) -> None:
    """They are sent nowhere, for some would take their token along; the service has no place to compute them itself."""
    made = invoke("port", "acme/tone", "--to", "v2", **reads.fleet.variables())
    assert made.exit_code == 0, made.output
    shards = [f["path"] for f in reads.client.get(f"{reads.fleet.url}/api/models/acme/tone.merged/tree/v2").json()]
    shard = next(path for path in shards if path in reads.computed)
    address = f"{reads.fleet.url}/acme/tone.merged/resolve/v2/{shard}"
    whole, head = reads.client.get(address), reads.client.head(address)
    assert (whole.status_code, head.status_code) == (200, 200)
    assert whole.headers["ETag"] == head.headers["ETag"]
    assert whole.headers["X-Repo-Commit"] == head.headers["X-Repo-Commit"]
    cut = reads.client.get(address, headers={"Range": "bytes=5-99"})
    assert (cut.status_code, cut.content) == (206, whole.content[5:100])
    carried = reads.client.get(f"{reads.fleet.url}/acme/tone.merged/resolve/v2/config.json")
    assert carried.json()["model_type"] == "llama"


def test_a_worker_that_cannot_be_reached(reads: Reads, models: Path, tmp_path: Path) -> None:
    """The service serves it itself, and a pull that was sent there comes back, having shown its token to nobody.

    The last of this file: it stops the service that all others ask.
    """
    seen: list[dict[str, str]] = []

    class Stranger(BaseHTTPRequestHandler):
        """Answers every request with an error, and keeps its headers."""

        def do_GET(self) -> None:
            seen.append({name.lower(): value for name, value in self.headers.items()})
            self.send_error(500)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    fleet = reads.fleet
    # A second service on the same database, which has places.
    second = Fleet(fleet.root / "second", fleet.settings["PORTLLM_DATABASE_URL"], *fleet.allowed)
    second.data.parent.mkdir(exist_ok=True)
    second.data.symlink_to(fleet.data)
    reads.worker.stop()
    fleet.stop()  # the data directory is one service's
    second.start()
    try:
        with second.client() as client:
            name = reads.computed[0]
            for address in (f"http://127.0.0.1:{server.server_port}", "http://127.0.0.1:9"):
                fleet.rows("DELETE FROM workers")
                fleet.rows(
                    "INSERT INTO workers (id, class_name, host, pid, version, url, device, memory_bytes, labels, started_at, "
                    "seen_at) VALUES ('ghost', 'cpu', 'ghost', 1, '0', :url, 'cpu', 1, '{}', now(), now() + interval '1 hour')",
                    url=address,
                )
                until(partial(_is_sent_to, client, reads.path(name), address))
                own = client.get(reads.path(name), params={"redirect": "false"})
                assert (own.status_code, own.content) == (200, (reads.merged / name).read_bytes())
                out = tmp_path / address[-4:]
                pulled = invoke("pull", reads.port, out, "--no-verify", **second.variables())
                assert pulled.exit_code == 0, pulled.output
                assert digests(out) == digests(reads.merged)
            assert len(seen) >= len(reads.computed)
            assert not [headers for headers in seen if "authorization" in headers]
            fleet.rows("DELETE FROM workers")
            until(lambda: client.get(reads.path(name)).status_code == 200)
            with second.working(("--listen", "127.0.0.1:0")):
                pulled = invoke("pull", reads.port, tmp_path / "all", "--json", **second.variables())
                assert pulled.exit_code == 0, pulled.output
                assert json.loads(pulled.stdout)["verified"]
                assert digests(tmp_path / "all") == digests(reads.merged)
    finally:
        second.kill()
        server.shutdown()


def _is_sent_to(client: httpx.Client, path: str, address: str) -> bool:
    return client.get(path).headers.get("Location", "").startswith(address)

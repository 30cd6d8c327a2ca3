"""What is under way when a fault happens: an ingestion, an upload, a materialisation; each knows what must be true at its end."""

import hashlib
import json
import shutil
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from app.cli.client import Client
from app.cli.upload import push_patch
from app.core.offline import merge
from tests.faults.world import Site, World
from tests.support.s3 import S3Server
from tests.support.service_process import invoke, until
from tests.support.sparse_models import large_patch, large_release

CHUNK = 2**20
SECONDS = 120
FAMILY = "soak"


class Operation(ABC):
    """Something that takes a while and must not be lost.

    Attributes:
        name: of the kind, for the table.
    """

    name: str

    def __init__(self, world: World) -> None:
        self.world = world
        self.kind = self.name.replace(" ", "-").replace(",", "")
        self._told = 0  # where the events are that were not read yet: a soak makes thousands
        with world.service.client() as client:
            client.post("/families", json={"name": FAMILY})

    @abstractmethod
    def prepare(self, label: str) -> None:
        """Makes what the next round needs."""

    def told_of(self, subject: str) -> list[str]:
        """The kinds of the events about something of this operation's, of which there were none before the last call."""
        with self.world.service.client() as client:
            news, self._told = events(client, self._told)
        return [event["kind"] for event in news if event["subject"] == subject]

    @abstractmethod
    def begin(self) -> None:
        """Asks for it."""

    @abstractmethod
    def status(self) -> str:
        """Where it is, for the record."""

    @abstractmethod
    def finish(self) -> str:
        """Waits until it is done, checks everything about it, and says how it ended."""

    def run(self, *arguments: str | Path) -> Any:
        """A verb of the command line that must succeed; its JSON."""
        ended = invoke(*arguments, "--json", **self.world.service.variables())
        assert ended.exit_code == 0, (arguments, ended.output)
        return json.loads(ended.stdout)

    def read(self, path: str, state: str) -> dict[str, Any]:
        """A resource, once it is in a state; patient while the database is away."""

        def reached() -> dict[str, Any] | None:
            with self.world.service.client() as client:
                answer = client.get(path)
            if answer.status_code == 503:
                return None
            row: dict[str, Any] = answer.raise_for_status().json()
            assert row["state"] not in ("rejected", "failed", "cancelled"), (path, row["problem"])
            return row if row["state"] == state else None

        reached.__doc__ = f"{path} to be {state}"
        return until(reached, SECONDS, every=0.1) or {}


class Ingestion(Operation):
    """A release of a few shards, by reference or copied."""

    def __init__(self, world: World, copy: bool, layers: int = 2) -> None:
        self.copy, self.layers = copy, layers
        self.name = "ingestion, copied" if copy else "ingestion, by reference"
        super().__init__(world)

    def prepare(self, label: str) -> None:
        """Every file has bytes of its own, so that nothing is there already from the round before."""
        self.release = f"{label}-{'copy' if self.copy else 'reference'}"
        self.directory = large_release(self.world.root / "releases" / self.release, self.layers, shards=self.layers)
        for path in self.directory.iterdir():
            if path.suffix == ".safetensors":
                with path.open("r+b") as file:
                    file.seek(-64, 2)
                    file.write(self.release.encode().ljust(64)[:64])
            else:
                path.write_text(json.dumps(json.loads(path.read_text()) | {"round": self.release}))

    def begin(self) -> None:
        body = {"name": self.release, "directory": str(self.directory), "copy": self.copy}
        with self.world.service.client() as client:
            client.post(f"/families/{FAMILY}/releases", json=body).raise_for_status()

    def status(self) -> str:
        return f"{len(self.world.service.jobs())} processes here"

    def finish(self, attempts: int = 1) -> str:
        """Its manifest names the true digests, its job is done, and it was announced once."""
        row = self.read(f"/families/{FAMILY}/releases/{self.release}", "ready")
        job = self.read(f"/jobs/{row['job']}", "done")
        told = self.told_of(f"{FAMILY}/{self.release}")
        assert told == ["release.registered", "release.rejected"] * (attempts - 1) + ["release.registered", "release.ready"]
        assert manifest_files(self.world, row["manifest"]) == digests(self.directory)
        shutil.rmtree(self.directory) if self.copy else None  # gigabytes, after many rounds; fsck reads those by reference
        return f"ready, attempt {job['attempt']}"


class Upload(Operation):
    """A patch of 17 MB, sent through the service or, in two parts, straight to the store."""

    def __init__(self, world: World, direct: bool, rank: int = 560) -> None:
        self.name, self.direct, self._rank, self._count = "upload, direct" if direct else "upload", direct, rank, 0
        super().__init__(world)
        if not (world.root / "releases/trained-on").exists():  # written once: it is served from where it lies
            large_release(world.root / "releases/trained-on", 1)
        self.run("release", "add", FAMILY, "trained-on", "--from", world.root / "releases/trained-on", "--wait")

    def prepare(self, label: str) -> None:
        self._count += 1
        patch = self.world.root / f"patch-{label}"
        large_patch(patch, 1, self._rank, seed=100 + self._count)
        self.client = _Sender(self.world, patch, self.direct)

    def begin(self) -> None:
        self.client.start()

    def status(self) -> str:
        return f"client {self.client.step}"

    def finish(self) -> str:
        """Taken up where it was, or sent again, it is one version with all its bytes."""
        sender = self.client
        sender.join(SECONDS)
        assert not sender.is_alive()
        told = "went through"
        if sender.step != _Sender.ANSWERED:
            told = sender.resume() if sender.id and self._count % 2 else "sent again"
            if told != "resumed":
                connection = Client(self.world.service.url, self.world.service.token)
                push_patch(connection, "acme", sender.name, sender.patch, FAMILY, "trained-on")
        with self.world.service.client() as client:
            rows = client.get(f"/patches/acme/{sender.name}/versions").raise_for_status().json()["items"]
        assert [row["number"] for row in rows] == [1]
        assert {file["path"]: file["sha256"] for file in rows[0]["files"]} == digests(sender.patch)
        assert self.told_of(f"acme/{sender.name}@1").count("version.published") == 1
        shutil.rmtree(sender.patch)
        return told


class _Sender(threading.Thread):
    """One upload by plain requests, which ends with the service.

    Attributes:
        step: what the client was doing.
        id: of the upload, once it was announced.
    """

    ANSWERED = "had its answer"

    def __init__(self, world: World, patch: Path, direct: bool) -> None:
        super().__init__(daemon=True)
        self._service, self.patch, self._direct = world.service, patch, direct
        self.name = patch.name
        self.files = [
            {"path": name, "size": (patch / name).stat().st_size, "sha256": digest} for name, digest in digests(patch).items()
        ]
        self.step, self.id = "had asked nothing", ""

    def run(self) -> None:
        try:
            with self._service.client() as client:
                self._send(client)
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            self.step += f" ({getattr(getattr(error, 'response', None), 'status_code', type(error).__name__)})"

    def _send(self, client: httpx.Client) -> None:
        self.step = "announced"
        client.post("/patches", json={"owner": "acme", "name": self.name, "family": FAMILY}).raise_for_status()
        announced = {"trained_on": "trained-on", "files": self.files}
        draft = client.post(f"/patches/acme/{self.name}/versions", json=announced).raise_for_status().json()
        self.id = draft["id"]
        for file in self.files:
            self.step = f"sent {file['path']}"
            self._put(client, file["path"], 0)
        self._publish(client)

    def resume(self) -> str:
        """Goes on as the protocol says; what became of it."""
        with self._service.client() as client:
            found = client.get(f"/uploads/{self.id}")
            if found.status_code == 404:  # published, though nobody heard of it
                return "published before"
            received = {u["path"]: u["received"] for u in found.raise_for_status().json()["uploads"]}
            for file in self.files:
                if received[file["path"]] < file["size"]:
                    self._put(client, file["path"], received[file["path"]])
            self._publish(client)
        return "resumed"

    def _publish(self, client: httpx.Client) -> None:
        self.step = "waited for the publication"
        client.post(f"/uploads/{self.id}/publish").raise_for_status()
        self.step = self.ANSWERED

    def _put(self, client: httpx.Client, path: str, offset: int) -> None:
        if self._direct:
            with (self.patch / path).open("rb") as file:
                asked = client.post(f"/uploads/{self.id}/direct", json={"path": path}).raise_for_status().json()
                for part in asked["parts"]:
                    file.seek(part["offset"])
                    httpx.put(part["url"], content=file.read(part["size"]), timeout=60).raise_for_status()
            return

        def rest() -> Iterator[bytes]:
            with (self.patch / path).open("rb") as file:
                file.seek(offset)
                while chunk := file.read(CHUNK):
                    yield chunk

        headers = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
        client.patch(f"/uploads/{self.id}/files/{path}", content=rest(), headers=headers).raise_for_status()


class Materialisation(Operation):
    """A merged model of 25 MB, written to S3 in parts."""

    name = "materialisation"
    world: Site

    def __init__(self, world: Site) -> None:
        super().__init__(world)
        base, patch, self.model = world.root / "releases/base", world.root / "tone", world.root / "merged"
        if not self.model.exists():
            large_release(base, 1, content=1)
            large_patch(patch, 1, 16, seed=3)
            merge(base, patch, self.model)
        self.run("release", "add", FAMILY, "base", "--from", base, "--copy", "--wait")
        self.run("patch", "push", "soak/tone", patch, "--family", FAMILY, "--trained-on", "base")
        self.port = self.run("port", "soak/tone", "--to", "base")["id"]

    def prepare(self, label: str) -> None:
        self.target = f"exports/{label}"

    def begin(self) -> None:
        with self.world.service.client() as client:
            body = {"to": f"s3://{self.world.bucket}/{self.target}"}
            self.id = client.post(f"/ports/{self.port}/materialise", json=body).raise_for_status().json()["id"]

    def status(self) -> str:
        return f"{len(self.written())} files visible"

    def written(self) -> dict[str, int]:
        """What is visible, by path; each file complete, though others may not be there yet."""
        found = self.world.s3.objects(self.world.bucket, f"{self.target}/")
        sizes = {path.removeprefix(f"{self.target}/"): size for path, size in found.items()}
        assert sizes.items() <= {path.name: path.stat().st_size for path in self.model.iterdir()}.items()
        return sizes

    def finish(self) -> str:
        """The objects are those of the local merge, and no parts are left."""
        self.written()
        row = self.read(f"/materialisations/{self.id}", "done")
        assert sum(file["size"] for file in row["result"]["files"]) == sum(self.written().values())
        with tempfile.TemporaryDirectory() as place:
            for path in self.written():
                key = f"{self.target}/{path}"
                self.world.s3.client().download_file(self.world.bucket, key, str(Path(place) / path))
            assert digests(Path(place)) == digests(self.model)
        until(lambda: not [key for key in self.world.s3.multiparts(self.world.bucket) if key.startswith(f"{self.target}/")], 20)
        return f"done, attempt {self.read('/jobs/' + row['job'], 'done')['attempt']}"


def manifest_files(world: World, digest: str) -> dict[str, str]:
    """sha256 by path of a release's files, as its manifest in the store says."""
    if isinstance(world, Site):
        return manifest_in_s3(world.s3, world.bucket, digest)
    return _files_of((world.service.data / "blobs/sha256" / digest[:2] / digest).read_bytes())


def manifest_in_s3(s3: S3Server, bucket: str, digest: str) -> dict[str, str]:
    """The same, of a registry whose bytes lie below registry/ in a bucket."""
    key = f"registry/sha256/{digest[:2]}/{digest}"
    return _files_of(s3.client().get_object(Bucket=bucket, Key=key)["Body"].read())


def _files_of(manifest: bytes) -> dict[str, str]:
    return {path: sha256 for path, (_, sha256) in json.loads(manifest)["files"].items()}


def events(client: httpx.Client, cursor: int) -> tuple[list[dict[str, Any]], int]:
    """All that happened after a cursor, and the cursor after it."""
    found = []
    while (page := client.get("/events", params={"after": cursor, "limit": 500}).raise_for_status().json())["items"]:
        found += page["items"]
        cursor = page["cursor"]
    return found, cursor


def digests(directory: Path) -> dict[str, str]:
    """sha256 by name of a directory's files."""
    found = {}
    for path in directory.iterdir():
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found

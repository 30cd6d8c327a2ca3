"""Backup and restore: the database first, the bytes after it, while the registry is written to; then another serves from both.

Bytes lie in a directory or in a bucket, and are copied as they are, by key. SQLite is copied by `portllm db backup`,
PostgreSQL by the command that this verb names.
"""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.fixtures import Models, on_sqlite
from tests.support.postgres import Postgres, binaries, libpq
from tests.support.registry import Caller, Service
from tests.support.s3 import S3Server
from tests.support.service_process import invoke, until


class Directory:
    """Bytes below DATA."""

    def __init__(self, root: Path) -> None:
        self._copy = root / "bytes"

    def settings(self) -> dict[str, Any]:
        """Of the registry that is copied."""
        return {}

    def copy(self, service: Service) -> None:
        """As an operator does it, after the database."""
        shutil.copytree(service.data / "blobs/sha256", self._copy)

    def restored(self, data: Path) -> dict[str, Any]:
        """Puts the copy where another registry finds it; the settings of that one."""
        shutil.copytree(self._copy, data / "blobs/sha256")
        return {}


class Bucket:
    """Bytes below a prefix of a bucket; the copy has another prefix, in another bucket."""

    def __init__(self, s3: S3Server) -> None:
        self._client, self._from, self._to = s3.client(), s3.bucket(), s3.bucket()
        self._keys = s3.objects

    def settings(self) -> dict[str, Any]:
        return {"blobs": f"s3://{self._from}/registry", "direct_transfers": False}  # an in-process client reaches no S3

    def copy(self, service: Service) -> None:  # noqa: ARG002  the bucket is its own
        for key in self._keys(self._from, "registry/"):
            if not key.startswith("registry/staging/"):  # it comes and goes meanwhile, and nobody names it
                source = {"Bucket": self._from, "Key": key}
                self._client.copy_object(CopySource=source, Bucket=self._to, Key=f"copied/{key.removeprefix('registry/')}")

    def restored(self, data: Path) -> dict[str, Any]:  # noqa: ARG002
        for key in self._keys(self._from):  # whatever is served now comes from the copy
            self._client.delete_object(Bucket=self._from, Key=key)
        return {**self.settings(), "blobs": f"s3://{self._to}/copied"}


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Directory | Bucket:
    """Where bytes are kept."""
    if request.param == "directory":
        return Directory(tmp_path)
    s3: S3Server = request.getfixturevalue("s3")
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return Bucket(s3)


def variables(service: Service) -> dict[str, str]:
    """What the command line needs to work on the same database and bytes."""
    roots = json.dumps([str(root) for root in service.settings.allow_roots])
    url = {} if service.on_sqlite else {"PORTLLM_DATABASE_URL": service.settings.database_url}
    return {"PORTLLM_ALLOW_ROOTS": roots, "PORTLLM_BLOBS": service.settings.blobs} | url


def copy_database(service: Service, file: Path) -> None:
    """As an operator does it, who runs what `portllm db backup` says where it does not do it itself."""
    ended = invoke("db", "backup", file, "--data", service.data, **variables(service))
    if service.on_sqlite:
        assert ended.exit_code == 0, ended.output
        assert (service.settings.blobs or str(service.data / "blobs/sha256")) in ended.stdout
        return
    assert ended.exit_code == 1
    named = re.search(r"`(pg_dump .*)`", ended.stderr)
    assert named, ended.stderr
    tools = f"{binaries()}:{os.environ['PATH']}"  # an older pg_dump may come first on PATH, and refuses
    subprocess.run(named[1], shell=True, check=True, env=os.environ | {"PATH": tools}, timeout=60)  # noqa: S602  as a person types it


def restore(request: pytest.FixtureRequest, file: Path, store: Directory | Bucket, root: Path, original: Service) -> Service:
    """A registry of its own on copies; not started yet."""
    url = ""
    if not original.on_sqlite:
        server: Postgres = request.getfixturevalue("server")
        url = server.create()
        command = [str(binaries() / "pg_restore"), "--exit-on-error", "--no-owner", f"--dbname={libpq(url)}", str(file)]
        subprocess.run(command, check=True, timeout=60)
    (root / "data").mkdir(parents=True, mode=0o700)
    restored = Service(root, original.settings.allow_roots[0], database_url=url, **store.restored(root / "data"))
    if original.on_sqlite:
        shutil.copy(file, restored.data / "portllm.db")
    shutil.copy(original.data / "admin-token", restored.data)  # the tests' callers look there
    return restored


@contextmanager
def writing(acme: Caller, another: Callable[[], Path]) -> Iterator[list[int]]:
    """Somebody who publishes one version after another; their numbers so far."""
    numbers: list[int] = []
    stopping = threading.Event()

    def publish() -> None:
        while not stopping.is_set():
            numbers.append(acme.publish("acme/busy", another())["number"])

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield numbers
    finally:
        stopping.set()
        thread.join(60)


def versions(caller: Caller, patch: str) -> dict[int, dict[str, Any]]:
    items = caller.get(f"/patches/{patch}/versions", limit=500).json()["items"]
    return {item["number"]: item for item in items}


def test_backup_taken_during_writes_is_restored_completely(
    request: pytest.FixtureRequest, fresh: Callable[..., Service], models: Models, another: Callable[[], Path], tmp_path: Path,
    store: Directory | Bucket,
) -> None:  # fmt: skip
    """All that was there when the backup began is served again, byte by byte; what came later is neither served nor trouble."""
    service = fresh(**store.settings())
    service.admin.family("llama")
    assert service.release("llama", "v1", models.v1)["state"] == "ready"
    assert service.release("llama", "v2", models.v2, copy=True, parent="v1")["state"] == "ready"
    acme = service.caller("acme")
    acme.publish(acme.patch("acme", "tone"), models.patch)
    acme.patch("acme", "busy")
    port = acme.port("acme/tone", "v2")
    with writing(acme, another) as numbers:
        until(lambda: len(numbers) >= 3)
        before = list(numbers)
        copy_database(service, tmp_path / "registry.backup")
        so_far = len(numbers)
        until(lambda: len(numbers) >= so_far + 2)
        store.copy(service)
    merged = {file["path"]: acme.get(f"/ports/{port['id']}/files/{file['path']}").content for file in files_of(acme, port)}

    again = restore(request, tmp_path / "registry.backup", store, tmp_path / "restored", service)
    checked = invoke("fsck", "--data", again.data, "--json", **variables(again))
    assert (checked.exit_code, json.loads(checked.stdout)["troubles"]) == (0, []), checked.stdout
    with again.running():
        found = versions(again.admin, "acme/busy")
        assert set(before) <= set(found) < set(numbers)
        for patch in ("acme/tone", "acme/busy"):
            for number, version in versions(again.admin, patch).items():
                for file in version["files"]:
                    answer = again.admin.get(f"/patches/{patch}/versions/{number}/files/{file['path']}")
                    assert hashlib.sha256(answer.content).hexdigest() == file["sha256"], (patch, number, file)
        for path, content in merged.items():
            assert again.admin.get(f"/ports/{port['id']}/files/{path}").content == content, path
        assert again.admin.get("/families/llama/releases/v2").json()["state"] == "ready"
        # Whoever had a token has it still, and the numbers go on.
        caller = Caller(again.client, acme.token)
        assert caller.publish("acme/busy", another())["number"] == max(found) + 1


def files_of(caller: Caller, port: dict[str, Any]) -> list[dict[str, Any]]:
    return list(caller.get(f"/ports/{port['id']}/files").json()["files"])


def test_restore_without_its_bytes_is_reported_by_fsck(
    request: pytest.FixtureRequest, fresh: Callable[..., Service], models: Models, another: Callable[[], Path], tmp_path: Path,
    store: Directory | Bucket,
) -> None:  # fmt: skip
    """Bytes first and the database after them is the wrong order: `fsck` says which bytes are missing."""
    service = fresh(**store.settings())
    service.admin.family("llama")
    service.release("llama", "v1", models.v1)
    acme = service.caller("acme")
    acme.publish(acme.patch("acme", "tone"), models.patch)
    store.copy(service)
    acme.publish("acme/tone", another())
    copy_database(service, tmp_path / "registry.backup")
    again = restore(request, tmp_path / "registry.backup", store, tmp_path / "restored", service)
    checked = invoke("fsck", "--data", again.data, "--json", **variables(again))
    assert checked.exit_code == 1
    assert [(t["code"], t["subject"]) for t in json.loads(checked.stdout)["troubles"]] == [
        ("blob.missing", "acme/tone@2/README.md")
    ]


@on_sqlite  # the file of PostgreSQL is pg_dump's
def test_backup_file_is_private_and_complete(world: Any, tmp_path: Path) -> None:
    """Hashes of tokens are in it; nothing is written over, and a failure leaves nothing that looks like a backup."""
    file = tmp_path / "a.backup"
    assert invoke("db", "backup", file, "--data", world.service.data).exit_code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    content = file.read_bytes()
    second = invoke("db", "backup", file, "--data", world.service.data)
    assert (second.exit_code, file.read_bytes() == content) == (1, True)
    assert "is there already" in second.stderr
    nowhere = invoke("db", "backup", tmp_path / "none/a.backup", "--data", world.service.data)
    assert (nowhere.exit_code, "[client.file]" in nowhere.stderr) == (1, True), nowhere.output
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/portllm.db").write_bytes(b"no database" * 1000)
    broken = invoke("db", "backup", tmp_path / "b.backup", "--data", tmp_path / "broken")
    assert broken.exit_code == 1
    assert not (tmp_path / "b.backup").exists()


def test_backup_command_for_postgresql_shows_no_password() -> None:
    """The command for PostgreSQL names the server and the user."""
    url = "postgresql+psycopg://portllm:not-to-be-said@db.example:5432/portllm"
    ended = invoke("db", "backup", "a b.dump", PORTLLM_DATABASE_URL=url)
    assert "pg_dump --format=custom '--file=a b.dump' --dbname=postgresql://portllm@db.example:5432/portllm" in ended.stderr
    assert "not-to-be-said" not in ended.output

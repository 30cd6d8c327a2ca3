"""References to blobs: each noun that stores bytes writes them with its rows, and garbage collection keeps what they name.

`KEEPERS` has one entry for each noun of `app.db.blob_nouns`: how a row that keeps bytes comes to be, and how it ceases to.
"""

import datetime as dt
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from alembic import command

from app.db.base import Base, now
from app.db.blob_nouns import NOUNS
from app.db.pushes import PushedObject
from app.db.release_downloads import Pull
from app.db.releases import Release
from app.db.schema import alembic_config
from app.domain.ids import new_id
from app.domain.principal import ROLES
from app.services.operations import abandoned_uploads, garbage_collection
from app.services.unit_of_work import UnitOfWork
from app.services.uploads import pushed_objects
from tests.support.fixtures import Models
from tests.support.purge_sites import unshared
from tests.support.registry import Service

BEFORE = "0024"  # the revision before the table
# Columns that hold the digests of something else than bytes in the store.
NO_BYTES = {
    "commits": "sizes and ETags of files, and texts that the row holds itself",
    "lineage_samples": "the pair of manifests that were compared, whether they are kept or not",
    "ports": "digests of files that are computed while they are read",
    "pushes": "files that pushed objects, or versions of the same owner, keep",
    "tokens": "the hash of a token",
    "blob_refs": "the references themselves",
}


@pytest.fixture
def service(begun: Service) -> Service:
    begun.admin.patch("acme", "tone")
    return begun


def store(service: Service, content: bytes) -> str:
    """Puts bytes into the store; their digest."""
    digest = hashlib.sha256(content).hexdigest()
    service.runtime.tools.blobs.append("test", "0", 0, content)
    service.runtime.tools.blobs.promote("test", "0", digest, "test")
    return digest


@dataclass
class Kept:
    """A row, the digests of its bytes, and what makes it keep them no longer."""

    row: str
    digests: set[str]
    end: Callable[[], object] | None


def version(service: Service, directory: Path, _: Models) -> Kept:
    made = service.admin.publish("acme/tone", directory)
    operator = service.caller("acme", *ROLES["operator"])
    path = f"/patches/acme/tone/versions/{made['number']}/purge"
    return Kept(made["id"], {file["sha256"] for file in made["files"]}, lambda: operator.post(path, {"reason": "a test"}))


def draft(service: Service, directory: Path, _: Models) -> Kept:
    made = service.admin.uploaded("acme/tone", directory)
    for index, file in enumerate(made["files"]):
        service.runtime.tools.blobs.promote(made["id"], str(index), file["sha256"], file["path"])

    def abandon() -> None:
        past = now() - dt.timedelta(days=3)
        service.execute("UPDATE patch_versions SET created_at = :moment WHERE id = :id", moment=past, id=made["id"])
        with service.runtime.write() as uow:
            assert abandoned_uploads.drafts(uow) == 1

    return Kept(made["id"], {file["sha256"] for file in made["files"]}, abandon)


def pushed_file(service: Service, directory: Path, _: Models) -> Kept:
    digest = store(service, directory.name.encode())
    ident = new_id("obj")
    with service.runtime.write() as uow:
        uow.add(
            PushedObject(
                id=ident, created_at=now(), owner="acme", repository="acme/tone", kind="file", digest=digest, size=1, charged=1,
                session=None, staged=None, multipart=None,
            )
        )  # fmt: skip
    assert references(service, "pushed file") == {}, "no bytes have arrived"
    with service.runtime.write() as uow:
        row = uow.session.get(PushedObject, ident)
        assert row is not None
        row.staged = "put-test"

    def forget() -> None:
        with service.runtime.write() as uow:
            pushed_objects.forget(uow, [ident])

    return Kept(ident, {digest}, forget)


def release(service: Service, _: Path, models: Models) -> Kept:
    made = service.release("llama", "copy", models.v2, copy=True)
    (ident,) = service.rows("SELECT id FROM releases WHERE name = 'copy'")[0]
    files = {hashlib.sha256(path.read_bytes()).hexdigest() for path in models.v2.iterdir()}
    return Kept(ident, files | {made["manifest"]}, None)


def download(service: Service, directory: Path, _: Models) -> Kept:
    digest, ident = store(service, b"weights of " + directory.name.encode()), new_id("rel")
    (family,) = service.rows("SELECT id FROM families")[0]
    with service.runtime.write() as uow:
        uow.add(
            Release(
                id=ident, created_at=now(), family_id=family, name="far", owner="registry", source="own:org/far@1", copied=True,
                state="ingesting", parent_id=None,
            )
        )  # fmt: skip
        uow.add(Pull(release_id=ident, files=[["model.safetensors", 1, digest, None], ["config.json", 1, None, "a" * 40]]))

    def reject() -> None:
        with service.runtime.write() as uow:
            row = uow.session.get(Release, ident)
            assert row is not None
            row.state = "rejected"

    return Kept(ident, {digest}, reject)


KEEPERS = {"version": version, "draft": draft, "pushed file": pushed_file, "release": release, "download": download}


@pytest.fixture
def kept(service: Service, models: Models, another: Callable[[], Path]) -> dict[str, Kept]:
    """A row of each noun; the version and the draft share their weights."""
    return {name: make(service, unshared(another()), models) for name, make in KEEPERS.items()}


def of_all(rows: Iterable[Kept]) -> set[str]:
    return set[str]().union(*(row.digests for row in rows))


def references(service: Service, noun: str) -> dict[str, set[str]]:
    """Registered digests by row."""
    found: dict[str, set[str]] = {}
    for row, digest in service.rows("SELECT row_id, digest FROM blob_refs WHERE noun = :noun", noun=noun):
        found.setdefault(row, set()).add(digest)
    return found


def table(service: Service) -> set[tuple[Any, ...]]:
    return set(service.rows("SELECT digest, noun, row_id, owner, size FROM blob_refs"))


def collect(service: Service) -> garbage_collection.Collected:
    """Garbage collection of bytes of any age."""
    return garbage_collection.collect(service.runtime.read, service.runtime.write, dt.timedelta(hours=-1))


def test_every_class_with_digests_is_declared_or_says_why_not() -> None:
    """A noun that stores bytes and is not in `NOUNS` would lose them."""
    declared = {noun.model.__tablename__ for noun in NOUNS}
    found = {
        mapper.local_table.name
        for mapper in Base.registry.mappers
        if any(re.search("digest|sha256|hash|files|manifest|blob", column.key) for column in mapper.columns)
    }
    assert found == declared | NO_BYTES.keys()
    assert not declared & NO_BYTES.keys()


def test_every_noun_has_a_row_in_these_tests() -> None:
    assert list(KEEPERS) == [noun.name for noun in NOUNS]


def test_references_are_written_with_the_row_of_each_noun(service: Service, kept: dict[str, Kept]) -> None:
    for noun, one in kept.items():
        assert references(service, noun)[one.row] == one.digests, noun


def test_garbage_collection_keeps_bytes_of_each_noun_until_its_row_ends(service: Service, kept: dict[str, Kept]) -> None:
    """The references go with the transaction that ends the row, and the bytes with the next collection."""
    blobs, living = service.runtime.tools.blobs, dict(kept)
    assert collect(service).found == 0
    assert all(blobs.size(digest) is not None for digest in of_all(kept.values()))
    for noun, one in kept.items():
        if one.end is None:
            continue
        one.end()
        del living[noun]
        assert one.row not in references(service, noun)
        collect(service)
        still = {digest for digest in of_all(kept.values()) if blobs.size(digest) is not None}
        assert still == of_all(living.values()), noun


def test_rows_without_references_lose_no_bytes(service: Service, kept: dict[str, Kept]) -> None:
    """As the version before writes them: they are registered by the next collection, whatever their noun."""
    before = table(service)
    service.execute("DELETE FROM blob_refs")
    assert collect(service).found == 0
    assert table(service) == before


def test_row_that_is_written_without_references_during_a_collection_loses_no_bytes(
    service: Service, kept: dict[str, Kept]
) -> None:
    """By the version before, after the collection has found its bytes unreferenced."""
    wanted = sorted(of_all(kept.values()))
    service.execute("DELETE FROM blob_refs")

    def delete(_uow: UnitOfWork, digest: str) -> bool:
        raise AssertionError(digest)

    with service.runtime.write() as uow:
        assert garbage_collection.try_remove(uow, wanted, delete) == []


def test_download_that_is_listed_anew_without_references_loses_no_bytes(service: Service, kept: dict[str, Kept]) -> None:
    """The version before registers a rejected release again, from another commit."""
    digest = store(service, b"other weights")
    service.execute("UPDATE pulls SET files = :files", files=json.dumps([["model.safetensors", 1, digest, None]]))
    collect(service)
    assert service.runtime.tools.blobs.size(digest) is not None


def test_row_that_the_version_before_ended_keeps_no_bytes(service: Service, kept: dict[str, Kept]) -> None:
    """It leaves the references behind; the next collection drops them."""
    one = kept["draft"]
    service.execute("UPDATE patch_versions SET state = 'discarded' WHERE id = :id", id=one.row)
    assert one.row in references(service, "draft")
    collect(service)
    assert one.row not in references(service, "draft")
    gone = one.digests - of_all(other for other in kept.values() if other is not one)
    assert gone
    assert not any(service.runtime.tools.blobs.size(digest) for digest in gone)


def test_migration_registers_rows_of_every_noun(service: Service, kept: dict[str, Kept]) -> None:
    """All but copied releases, whose files only their manifests list: the next collection registers those."""
    before = table(service)
    command.downgrade(alembic_config(service.settings.database_url), BEFORE)
    command.upgrade(alembic_config(service.settings.database_url), "head")
    assert table(service) == {ref for ref in before if ref[2] != kept["release"].row}
    assert collect(service).found == 0
    assert table(service) == before


def test_bytes_that_no_row_references_go_once_they_are_old(service: Service, kept: dict[str, Kept]) -> None:
    """The grace period is kept: bytes arrive before the row that references them is committed."""
    digest = store(service, b"stray")
    assert garbage_collection.collect(service.runtime.read, service.runtime.write).found == 0
    path = service.data / "blobs/sha256" / digest[:2] / digest
    os.utime(path, (time.time() - 2 * 3600,) * 2)
    found = garbage_collection.collect(service.runtime.read, service.runtime.write, dry_run=True)
    assert (found.found, found.found_bytes, found.removed, path.exists()) == (1, 5, 0, True)
    assert garbage_collection.collect(service.runtime.read, service.runtime.write).removed_bytes == 5
    assert not path.exists()

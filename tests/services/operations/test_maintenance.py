"""Maintenance during other work: bytes that are being referenced are never removed, and one replica at a time runs it."""

import datetime as dt
import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app import background
from app.blobs.s3.client import shared_client
from app.blobs.s3.target import S3Target
from app.database_upgrade import upgrade
from app.domain.errors import DomainError
from app.jobs import child
from app.jobs.codec import decode
from app.jobs.tasks.context import StartReport
from app.runtime import Runtime
from app.services.catalog.ingestion import INGESTION
from app.services.catalog.orders import IngestOrder, IngestResult
from app.services.jobs import attempts, jobs
from app.services.operations import garbage_collection
from app.services.operations.fsck.check import check
from app.services.operations.fsck.troubles import Found
from app.services.operations.maintenance import Maintenance, sweep_all
from app.services.ports.materialisations import MATERIALISATION
from app.services.unit_of_work import UnitOfWork
from app.settings import Settings
from tests.support.fixtures import Models
from tests.support.models import make_base
from tests.support.postgres import Postgres
from tests.support.registry import Service
from tests.support.s3 import S3Server
from tests.support.uploads import send


@pytest.fixture(params=["local", "s3"])
def service(
    request: pytest.FixtureRequest, fresh: Callable[..., Service], models: Models, monkeypatch: pytest.MonkeyPatch
) -> Service:
    """A registry with family llama and v1, and a sweep that takes every age for old: only names keep bytes."""
    settings = {}
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        bucket = server.bucket()
        settings = {"blobs": f"s3://{bucket}/registry", "allow_s3": [f"s3://{bucket}/exports"]}
    service = fresh(**settings)
    service.admin.family("llama")
    service.release("llama", "v1", models.v1)
    monkeypatch.setattr(garbage_collection, "BLOB_GRACE", dt.timedelta(hours=-1))
    return service


def left_over(service: Service, directory: Path) -> set[str]:
    """Puts the files of a directory into the store, named by nothing; their digests."""
    blobs, digests = service.runtime.tools.blobs, set()
    for path in directory.iterdir():
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        blobs.append("left-over", "0", 0, content)
        blobs.promote("left-over", "0", digest, path.name)
        digests.add(digest)
    return digests


def found(service: Service) -> list[str]:
    grace = garbage_collection.BLOB_GRACE.total_seconds()
    return [blob.digest for blob in garbage_collection.unreferenced(service.runtime.read, grace)]


def delete(uow: UnitOfWork, digest: str) -> bool:
    return uow.tools.blobs.delete(digest)


def removed(service: Service, digests: list[str]) -> int | None:
    with service.runtime.write() as uow:
        gone = garbage_collection.try_remove(uow, digests, delete)
        return None if gone is None else len(gone)


def troubles(service: Service) -> list[Found]:
    return list(check(service.runtime, False, lambda *_: None))


@pytest.mark.parametrize("when", ["drafted", "sent", "published"])
def test_bytes_that_are_published_again_while_they_are_swept(service: Service, another: Callable[[], Path], when: str) -> None:
    """Found as nobody's, then drafted, sent or published again before they are removed: they stay, and so does the version."""
    admin, directory = service.admin, another()
    digests = left_over(service, directory)
    doomed = found(service)
    assert digests <= set(doomed)
    patch = admin.patch("acme", "tone")
    draft = admin.draft(patch, directory)
    if when != "drafted":
        send(admin, draft, directory)
    if when == "published":
        assert admin.post(f"/uploads/{draft['id']}/publish").status_code == 200
    assert removed(service, doomed) == len(set(doomed) - digests)
    if when == "drafted":
        send(admin, draft, directory)
    if when != "published":
        assert admin.post(f"/uploads/{draft['id']}/publish").status_code == 200
    assert troubles(service) == []


def test_bytes_that_were_swept_are_sent_again(service: Service, another: Callable[[], Path]) -> None:
    """Removed just before somebody announces them: what is sent is kept."""
    admin, directory = service.admin, another()
    digests = left_over(service, directory)
    assert removed(service, found(service)) == len(digests)
    admin.publish(admin.patch("acme", "tone"), directory)
    assert sweep_all(service.runtime.read, service.runtime.write)["blobs"] == 0
    assert troubles(service) == []


def test_an_ingestion_whose_bytes_were_swept_is_not_ready(service: Service, models: Models) -> None:
    """All of it is removed between being kept and being recorded: it is kept once more, or the release is not ready."""
    assert service.register("llama", "v2", models.v2, copy=True).status_code == 202
    job, kind, _ = service.runtime.tools.jobs.enqueued[-1]

    def swept(message: dict[str, Any], start_report: StartReport) -> dict[str, Any]:
        final = child.outcome(message, start_report)
        with service.runtime.read() as uow:
            INGESTION.keep(uow, decode(IngestOrder, message["order"]), decode(IngestResult, final["result"]))
        assert removed(service, found(service))
        return final

    outcome = service.run_job(job, kind, do=swept)
    service.runtime.tools.jobs.forget(job)
    release = service.admin.get("/families/llama/releases/v2").json()
    if service.settings.blobs:  # where keeping is copying, the job's own files are there still
        assert release["state"] == "ready"
    else:
        assert (release["state"], outcome["error"]["code"]) == ("rejected", "blob.missing")
    assert troubles(service) == []


@pytest.mark.parametrize("service", ["s3"], indirect=True)
def test_parts_of_a_model_that_nobody_writes_any_more(service: Service, models: Models) -> None:
    """Its worker was killed and then it was cancelled, so that nobody takes its parts up: the sweep drops them, and no others."""
    admin, place = service.admin, service.settings.allow_s3[0]
    bucket = place.split("/")[2]
    admin.publish(admin.patch("acme", "tone"), models.patch)
    port = admin.port("acme/tone", "v1")["id"]
    rows = {}
    for name in ("cancelled", "running", "given-up"):
        rows[name] = admin.post(f"/ports/{port}/materialise", {"to": f"{place}/{name}"}).json()
        with service.runtime.write() as uow:
            order = attempts.make_order(uow, MATERIALISATION, rows[name]["job"])
        S3Target(shared_client(), bucket, f"exports/{name}", order.fingerprint).begin(order.paths[0], 0)

    def parts() -> set[str]:
        listed = shared_client().list_multipart_uploads(Bucket=bucket).get("Uploads", ())
        return {upload["Key"].split("/")[1] for upload in listed}

    queue = service.runtime.tools.jobs
    assert admin.post(f"/jobs/{rows['cancelled']['job']}/cancel").status_code in (200, 202)
    queue.forget(rows["given-up"]["job"])  # the engine knows nothing of it any more
    assert jobs.reconcile(service.runtime.read, service.runtime.write, set()) == 1
    states = {name: admin.get(f"/materialisations/{row['id']}").json()["state"] for name, row in rows.items()}
    assert states == {"cancelled": "cancelled", "running": "running", "given-up": "failed"}
    assert parts() == set(rows)
    assert sweep_all(service.runtime.read, service.runtime.write)["parts"] == 2
    assert parts() == {"running"}


# -- several replicas, on PostgreSQL


@contextmanager
def replicas(url: str, place: Path, count: int) -> Iterator[list[Runtime]]:
    made = [Runtime(Settings(jobs=False, data=place / str(n), database_url=url, secret_key="s" * 32)) for n in range(count)]
    try:
        for replica in made:
            replica.start()
        yield made
    finally:
        for replica in made:
            replica.stop()


class Slow(Maintenance):
    """Maintenance that lasts until the test ends it."""

    def __init__(self, replica: Runtime) -> None:
        super().__init__(replica.read, replica.write)
        self.begun, self.may_end, self.times = threading.Event(), threading.Event(), 0

    def run_due(self) -> None:
        self.begun.set()
        assert self.may_end.wait(30)
        self.times += 1


def test_maintenance_is_run_by_one_replica_at_a_time(
    migrated: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one does, others do not wait for it but let it; then it is theirs."""
    monkeypatch.setattr(background, "every", lambda *_: None)  # but when the test says so
    with replicas(migrated(), tmp_path, 2) as (one, two):
        first, second = Slow(one), Slow(two)
        second.may_end.set()
        thread = threading.Thread(target=one.run_maintenance, args=(first,))
        thread.start()
        assert first.begun.wait(30)
        assert not two.run_maintenance(second)
        first.may_end.set()
        thread.join(30)
        assert two.run_maintenance(second)
        assert (first.times, second.times) == (1, 1)


def test_naming_and_removing_exclude_each_other(migrated: Callable[[], str], tmp_path: Path) -> None:
    """While a replica names bytes another removes none and does not wait; while it removes some, others wait to name theirs."""
    with replicas(migrated(), tmp_path, 2) as (one, two):
        with one.write() as naming:
            naming.hold_gc()
            with two.write() as also:
                also.hold_gc()
            with two.write() as removing:
                assert garbage_collection.try_remove(removing, [], delete) is None
        order: list[str] = []

        def name() -> None:
            with two.write() as uow:
                uow.hold_gc()
                order.append("named")

        thread = threading.Thread(target=name)
        with one.write() as removing:
            assert garbage_collection.try_remove(removing, [], delete) == []
            thread.start()
            thread.join(0.3)
            order.append("removed")
        thread.join(30)
        assert order == ["removed", "named"]


def test_a_refused_start_lets_go(server: Postgres, tmp_path: Path) -> None:
    """A start that is refused holds neither lock nor connection: once the reason is mended the same directory is free."""
    url = server.create()
    settings = Settings(jobs=False, data=tmp_path / "data", database_url=url, secret_key="s" * 32)
    refused = Runtime(settings)
    with pytest.raises(DomainError) as caught:
        refused.start()
    assert caught.value.code == "database.schema"
    upgrade(url)
    other = Runtime(settings)
    other.start()
    other.stop()
    refused.start()
    refused.stop()


def test_a_refused_start_on_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it fails late, as with a disk that is full."""
    monkeypatch.setattr(
        "app.services.access.tokens.bootstrap", lambda _: (_ for _ in ()).throw(DomainError("server.storage_full"))
    )
    settings = Settings(jobs=False, data=tmp_path / "data")
    runtime = Runtime(settings)
    with pytest.raises(DomainError):
        runtime.start()
    monkeypatch.undo()
    other = Runtime(settings)
    other.start()
    other.stop()


def test_a_copied_release_is_kept_on_every_store(service: Service) -> None:
    """What the sweep would take for nobody's is named from the moment it counts: a copy outlives a sweep right after it."""
    source = make_base(service.place / "v3")
    service.release("llama", "v3", source, copy=True)
    assert sweep_all(service.runtime.read, service.runtime.write)["blobs"] == 0
    assert troubles(service) == []

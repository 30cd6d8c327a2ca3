"""/readyz: what a process stands on is asked, with a limit, once a second; what hangs or is gone is named, and nothing else."""

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.blobs.local import LocalBlobs
from app.database_upgrade import upgrade
from app.domain.errors import DomainError
from app.services.operations.readiness import FRESH_SECONDS, Component, Readiness
from tests.support.http_server import serving
from tests.support.metrics import figures
from tests.support.postgres import OwnServer, own_server
from tests.support.registry import Service, refused
from tests.support.s3 import S3Server
from tests.support.s3_faults import FaultyS3
from tests.support.service_process import until

PARTS = {"database", "writes", "blobs", "jobs"}


def unready(service: Service) -> dict[str, Any]:
    """The parts that do not work, of a service that must not be ready; asked anew, whatever was answered before."""
    service.runtime.readiness = Readiness(service.runtime.checks())
    began = time.monotonic()
    problem = refused(service.client.get("/readyz"), 503, "server.unready")
    assert time.monotonic() - began < 4, "the limit, on a busy machine"
    parts = problem["data"]["parts"]
    assert parts.keys() == (PARTS if service.on_sqlite else PARTS | {"keys", "workers"})
    assert all(part["milliseconds"] >= 0 for part in parts.values())
    failed = {name: part["reason"] for name, part in parts.items() if not part["ok"]}
    assert all(reason.rstrip(".") in problem["detail"] for reason in failed.values())
    text = str(problem)
    assert not [secret for secret in (str(service.data), "127.0.0.1", "postgres", "test-key") if secret in text], text
    return failed


def ready(service: Service) -> bool:
    """the service to be ready"""
    answer = service.client.get("/readyz")
    return answer.status_code == 200 and all(part["ok"] for part in answer.json()["parts"].values())


@pytest.fixture(scope="module")
def stoppable() -> Iterator[OwnServer]:
    """A PostgreSQL that these tests may stop."""
    with own_server() as server:
        yield server


@contextmanager
def paused(server: OwnServer) -> Iterator[None]:
    """Every process of a PostgreSQL server stands still: connections are open, and nothing answers."""
    main = int((server.place / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    for process in (main, *map(int, children)):
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in (main, *map(int, children)):
            os.kill(process, signal.SIGCONT)


def test_a_database_that_hangs_or_is_gone(registries: Callable[..., Service], stoppable: OwnServer) -> None:
    """Stopped, standing still, not migrated: 503 within the limit that says which part and why; and ready again after."""
    url = stoppable.create()
    upgrade(url)
    with registries(database_url=url).running() as service:
        assert ready(service)
        with paused(stoppable):
            assert unready(service) == dict.fromkeys(("database", "writes", "jobs", "workers"), "no answer within 2 s")
            told = figures(service)
            assert (told['portllm_up{part="database"}'], told['portllm_up{part="blobs"}']) == (0.0, 1.0)
        until(lambda: ready(service), 30)
        stoppable.stop()
        assert unready(service)["database"] == "The database does not answer."
        told = figures(service)
        assert told['portllm_up{part="database"}'] == 0.0
        assert "process_resident_memory_bytes" in told
        assert not [name for name in told if name.startswith(("portllm_jobs", "portllm_ports", "portllm_event"))]
        stoppable.start()
        until(lambda: ready(service), 30)
        service.execute("UPDATE alembic_version SET version_num = '0001'")
        assert "schema 0001" in unready(service)["database"]
        service.execute("UPDATE alembic_version SET version_num = '9999'")
        until(lambda: ready(service), 10)  # a newer one: migrations only add
        service.execute("ALTER SCHEMA dbos RENAME TO elsewhere")
        assert "job engine" in unready(service)["jobs"]


def test_a_store_that_hangs_or_is_gone(fresh: Callable[..., Service], s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 that says nothing, that says 503, a bucket that is not there."""
    with FaultyS3(s3.url) as proxy:
        for name, value in s3.environment(proxy.url).items():
            monkeypatch.setenv(name, value)
        bucket = s3.bucket()
        service = fresh(blobs=f"s3://{bucket}/registry")
        assert ready(service)
        proxy.stall_seconds = 3.0
        proxy.choose = lambda _method, _path: "stall"
        assert list(unready(service)) == ["blobs"]
        proxy.choose = lambda _method, _path: "503"
        until(lambda: "503" in unready(service)["blobs"], 20)
        proxy.well()
        until(lambda: ready(service), 20)
        s3.client().delete_bucket(Bucket=bucket)
        assert "NoSuchBucket" in unready(service)["blobs"]
        assert bucket not in unready(service)["blobs"]


def test_a_directory_that_is_gone(fresh: Callable[..., Service]) -> None:
    """It is not made anew: what lay there would be missing."""
    service = fresh()
    assert ready(service)
    shutil.move(service.data / "blobs", service.data / "elsewhere")
    assert unready(service) == {"blobs": "No such file or directory"}
    assert not (service.data / "blobs").exists()
    shutil.move(service.data / "elsewhere", service.data / "blobs")
    until(lambda: ready(service), 10)
    assert not list((service.data / "blobs/probe").iterdir())


def test_a_directory_that_cannot_be_written_to() -> None:
    """Reading goes on there, and it is not ready."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    blobs, user = LocalBlobs(place / "blobs"), os.geteuid()
    for path in (place, place / "blobs", *(place / "blobs").iterdir()):
        path.chmod(0o555)
    try:
        if user == 0:  # to whom permissions mean nothing
            os.seteuid(65534)
        assert blobs.size("0" * 64) is None
        with pytest.raises(PermissionError):
            blobs.check()
    finally:
        os.seteuid(user)
        for path in (place, place / "blobs"):
            path.chmod(0o755)
        shutil.rmtree(place)


def test_one_look_at_a_time_and_one_a_second() -> None:
    """A hundred probes are one look; a part that hangs has one thread, however long and often it is asked for."""
    asked, hanging = list[str](), threading.Event()

    def hang() -> None:
        asked.append("hangs")
        hanging.wait(30)

    readiness = Readiness({"works": lambda: asked.append("works"), "hangs": hang}, limit=0.2)
    looks = {id(readiness.ask()) for _ in range(100)}
    assert len(looks) == 1
    parts = readiness.ask().result(5)
    assert (parts["works"].ok, parts["hangs"].ok, parts["works"].reason) == (True, False, None)
    assert readiness.ask().result(0) is parts
    time.sleep(FRESH_SECONDS)
    again = readiness.ask().result(5)
    assert (asked.count("works"), asked.count("hangs")) == (2, 1)
    assert again["hangs"].milliseconds > parts["hangs"].milliseconds
    hanging.set()
    time.sleep(FRESH_SECONDS)
    assert readiness.ask().result(5)["hangs"].ok


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DomainError("database.unreachable"), "The database does not answer."),
        (PermissionError(13, "Permission denied", "/secret/place"), "Permission denied"),
        (TimeoutError("host 10.0.0.1"), "it failed; the log says why"),
        (RuntimeError("postgresql://user:password@host"), "it failed; the log says why"),
    ],
)  # fmt: skip
def test_what_is_told_of_a_failure(error: Exception, reason: str) -> None:
    """Our own sentences and the system's word; never the text of an exception that may name hosts and secrets."""

    def fail() -> None:
        raise error

    part = Readiness({"part": fail}).ask().result(5)["part"]
    assert isinstance(part, Component)
    assert (part.ok, part.reason) == (False, reason)
    assert part.to_dict().keys() == {"ok", "milliseconds", "reason"}


def test_a_part_that_works_may_have_something_to_say() -> None:
    """It is shown, and the part is ready."""
    part = Readiness({"part": lambda: "one of the others differs"}).ask().result(5)["part"]
    assert (part.ok, part.reason) == (True, "one of the others differs")


def test_probes_take_nothing_from_others(fresh: Callable[..., Service], monkeypatch: pytest.MonkeyPatch) -> None:
    """More probes than the server has threads wait for a part that hangs; another request is answered meanwhile."""
    service, hanging = fresh(), threading.Event()
    monkeypatch.setattr(service.runtime, "readiness", Readiness({"hangs": lambda: hanging.wait(60)}, limit=20))
    with serving(service) as url, httpx.Client(base_url=url, limits=httpx.Limits(max_connections=70)) as client:
        probes = [threading.Thread(target=client.get, args=("/readyz",), kwargs={"timeout": 60}) for _ in range(60)]
        for probe in probes:
            probe.start()
        until(lambda: any(thread.name == "aside" for thread in threading.enumerate()), 10)
        began = time.monotonic()
        headers = {"Authorization": f"Bearer {service.admin.token}"}
        assert client.get("/api/v1/whoami", headers=headers, timeout=30).status_code == 200
        assert time.monotonic() - began < 8
        hanging.set()
        for probe in probes:
            probe.join()

"""Purging beside others who read, publish, port and write the same bytes; and replicas that hold them open."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, event

from app import background
from app.core.errors import CheckpointError
from app.core.recipe import Recipe
from app.core.revocable_source import RevocableSource
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.services.patches import drafts, verification
from app.services.ports import ports
from app.services.unit_of_work import run_with_retry
from tests.support.concurrency import call_concurrently
from tests.support.fixtures import Models, on_postgresql
from tests.support.models import Shelf
from tests.support.purge_sites import WHY, PurgeSite, opened, place
from tests.support.registry import Caller, Service, refused, unique
from tests.support.s3 import S3Server
from tests.support.service_process import until
from tests.support.uploads import announced

__all__ = ["place"]

ADMIN = Principal("admin", frozenset({"admin", "read", "publish"}), "tok_test")
ROUNDS = 2


def test_beside_everybody(place: PurgeSite) -> None:
    """Whatever comes first: nobody meets an error of ours, what another published is whole, of the purged one nothing is left."""
    for _ in range(ROUNDS):
        met_by_everybody(place)


def met_by_everybody(place: PurgeSite) -> None:
    admin, directory = place.service.admin, place.fresh_patch()
    patch, rival, again = place.published(directory), *(admin.patch(owner, unique("patch")) for owner in ("rival", "acme"))
    port = admin.port(patch, "v1")["id"]
    theirs, late = (admin.uploaded(name, directory)["id"] for name in (rival, again))
    wish, target = {"patch": patch, "release": "v2", "version": 1}, f"s3://{place.bucket}/exports/{unique('m')}"

    def purging() -> httpx.Response:
        return place.operator.post(f"/patches/{patch}/versions/1/purge", WHY)

    def reading() -> httpx.Response:
        return admin.get(f"/ports/{port}/files/model.safetensors.index.json")

    answers = call_concurrently(
        purging, reading, reading,
        lambda: admin.post(f"/uploads/{theirs}/publish"),
        lambda: admin.post(f"/uploads/{late}/publish"),
        lambda: admin.post("/ports", wish),
        lambda: admin.post("/ports/check", wish),
        lambda: admin.post(f"/ports/{port}/materialise", {"to": target}),
        lambda: admin.post(f"/patches/{again}/versions", {"trained_on": "v1", "files": announced(directory)}),
        purging,
    )  # fmt: skip
    assert {answers[0].status_code, answers[3].status_code, answers[-1].status_code} == {200}
    assert [a.text for a in answers if a.status_code not in {200, 201, 202, 410}] == []
    assert {a.json()["code"] for a in answers if a.status_code == 410} <= {"version.purged"}
    for file in admin.get(f"/patches/{rival}/versions/1").json()["files"]:
        read = admin.get(f"/patches/{rival}/versions/1/files/{file['path']}", redirect=False)
        assert read.content == (directory / file["path"]).read_bytes()
    report = place.purge(patch)["erasure"]
    assert report["state"] == "done"
    # acme's other one is there where it was published before the purge; an upload that it opened meanwhile is buried by now.
    ours = f", {again}@1" if admin.get(f"/patches/{again}/versions").json()["items"] else ""
    assert {blob["kept_for"] for blob in report["blobs"]} == {f"a version of another owner{ours}"}
    assert {p["state"] for p in admin.get("/ports", patch=patch).json()["items"]} == {"purged"}
    refused(reading(), 410, "version.purged")
    mine = (patch, rival, again, port)
    assert [trouble for trouble in place.troubles() if any(name in trouble.subject for name in mine)] == []


@on_postgresql
def test_draft_that_is_purged_between_statements_of_its_publication_is_gone(place: PurgeSite) -> None:
    """Not unknown: whoever published it learns that its bytes were purged."""
    admin, directory, runtime = place.service.admin, place.fresh_patch(), place.service.runtime
    patch = place.published(directory)
    draft, begun = admin.uploaded(admin.patch("acme", unique("patch")), directory)["id"], list[str]()
    facts = verification.verify(runtime, ADMIN, draft)

    def purge(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not begun and "FROM patch_versions" in statement:
            begun.append(statement)
            place.purge(patch)

    event.listen(Engine, "after_cursor_execute", purge)
    try:
        with pytest.raises(DomainError) as error:
            run_with_retry(runtime.write, lambda uow: drafts.publish(uow, ADMIN, draft, facts))
    finally:
        event.remove(Engine, "after_cursor_execute", purge)
    assert (len(begun), error.value.code) == (1, "version.purged")


def test_erasure_waits_for_a_push_that_may_verify_the_same_bytes(place: PurgeSite) -> None:
    """What a push verifies would come into the store after the erasure had looked."""
    directory = place.fresh_patch()
    patch, pushed = place.published(directory), place.service.admin.patch("acme", unique("patch"))
    place.service.admin.draft(pushed, directory, "v1")
    with place.service.runtime.exclusive(f"push:{pushed}", "A push"):
        assert place.purge(patch)["erasure"]["state"] == "pending"
    assert place.purge(patch)["erasure"]["state"] == "done"


@pytest.fixture
def replicas(
    registries: Callable[..., Service], models: Models, shelf: Shelf, s3: S3Server, migrated: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[PurgeSite, Service]]:  # fmt: skip
    """Two services on one database and one store."""
    monkeypatch.setattr(background, "REVOKE_SECONDS", 0.2)
    url = migrated()
    with ExitStack() as stack:
        first = stack.enter_context(opened(registries, models, shelf, s3, database_url=url, in_s3=True))
        second = stack.enter_context(registries(database_url=url, blobs=f"s3://{first.bucket}/registry").running())
        second.admin = Caller(second.client, first.service.admin.token)
        yield first, second


@on_postgresql
def test_another_replica_lets_go(replicas: tuple[PurgeSite, Service]) -> None:
    """It refuses at once; what it holds open and remembers it lets go with its next look, and a read that had begun ends."""
    place, second = replicas
    patch = place.published()
    port = second.admin.port(patch, "v2")["id"]
    library = second.runtime.tools.artifacts
    with second.runtime.read() as uow:
        row = ports.readable(uow, ADMIN, port)
    recipe, arithmetic = Recipe.from_dict(row.recipe), second.runtime.tools.arithmetic()
    with library.open_merger(row.release, row.version, recipe, arithmetic) as merger:
        path = next(path for path, file in merger.plan.files.items() if path.endswith(".safetensors") and file.size)
        pieces = list(merger.pieces(path))
        assert pieces[0].produce()
        place.purge(patch)
        refused(second.admin.get(f"/ports/{port}/files/{path}"), 410, "version.purged")
        refused(second.admin.get(f"/ports/{port}/files"), 410, "version.purged")
        until(lambda: ended(pieces), 10)
    until(lambda: row.version_id not in library.held(), 10)


def ended(pieces: list[Any]) -> bool:
    try:
        for piece in pieces:
            piece.produce()
    except CheckpointError as error:
        return error.code == "checkpoint.changed"
    return False


class Slow:
    """A source whose reads wait, and that knows whether it was closed under one."""

    def __init__(self) -> None:
        self.reading, self.may_end = threading.Event(), threading.Event()
        self.closed = self.closed_under_a_read = False

    def size(self, _: str) -> int:
        return 1

    def read_into(self, _path: str, _offset: int, _buffer: memoryview) -> None:
        self.reading.set()
        assert self.may_end.wait(30)
        self.closed_under_a_read = self.closed

    def close(self) -> None:
        self.closed = True


def test_a_source_is_never_closed_under_a_read() -> None:
    """Revoking does not wait: who reads ends in peace, then it is closed; whoever comes later is refused."""
    slow = Slow()
    source = RevocableSource(slow)
    thread = threading.Thread(target=source.read_into, args=("x", 0, memoryview(bytearray(1))))
    thread.start()
    assert slow.reading.wait(30)
    source.revoke()
    assert not slow.closed
    with pytest.raises(CheckpointError):
        source.size("x")
    slow.may_end.set()
    thread.join(30)
    assert (slow.closed, slow.closed_under_a_read) == (True, False)

"""Several clients at once, on both databases: one wins, the others get the answer that any repeat gets, and no event is lost.

The storms may or may not collide; the tests below them hold one transaction open until the other is seen to wait for it.
"""

import datetime as dt
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from app.domain.errors import DomainError
from app.domain.events.families import FamilyCreated
from app.domain.principal import Principal
from app.runtime import Runtime
from app.services.access import tokens
from app.services.catalog import families
from app.services.catalog.ingestion import INGESTION
from app.services.events import events
from app.services.jobs import attempts
from app.services.patches import patches, versions
from app.services.ports import ports
from app.services.unit_of_work import UnitOfWork
from app.settings import Settings
from tests.support.concurrency import call_concurrently
from tests.support.fixtures import Models, on_postgresql
from tests.support.registry import Service, refused, unique
from tests.support.service_process import until
from tests.support.uploads import announced

CLIENTS = 6
ADMIN = Principal("admin", frozenset({"admin", "read", "publish"}), "tok_test")


@pytest.fixture(scope="module")
def service(registries: Callable[..., Service], models: Models) -> Iterator[Service]:
    """A registry with family llama, its releases v1 and v2."""
    with registries().running() as service:
        service.admin.family("llama")
        service.release("llama", "v1", models.v1)
        service.release("llama", "v2", models.v2, parent="v1")
        yield service


def statuses(responses: list[httpx.Response]) -> dict[int, int]:
    return dict(Counter(response.status_code for response in responses))


def happened(service: Service, kind: str, subject: str) -> int:
    """How many events of a kind tell of a subject."""
    return service.rows("SELECT count(*) FROM events WHERE kind = :kind AND subject = :subject", kind=kind, subject=subject)[0][0]


def test_concurrent_families_of_one_name_make_one(service: Service) -> None:
    """One is made; the others are told that the name is taken."""
    name = unique("family")
    answers = call_concurrently(*[lambda: service.admin.post("/families", {"name": name})] * CLIENTS)
    assert statuses(answers) == {201: 1, 409: CLIENTS - 1}
    assert {a.json()["code"] for a in answers if a.status_code == 409} == {"family.taken"}
    assert happened(service, "family.created", name) == 1


def test_concurrent_patches_of_one_name_make_one(service: Service) -> None:
    """All get the one patch."""
    body = {"owner": "acme", "name": unique("patch"), "family": "llama"}
    answers = call_concurrently(*[lambda: service.admin.post("/patches", body)] * CLIENTS)
    assert statuses(answers) == {201: 1, 200: CLIENTS - 1}
    assert len({a.json()["created_at"] for a in answers}) == 1
    assert happened(service, "patch.created", f"acme/{body['name']}") == 1


def test_concurrent_registrations_of_a_release_make_one(service: Service, models: Models) -> None:
    """All get the one release, which is read once."""
    name = unique("r")
    answers = call_concurrently(*[lambda: service.register("llama", name, models.v2)] * CLIENTS)
    assert statuses(answers) == {202: CLIENTS}
    assert len({a.json()["job"] for a in answers}) == 1
    assert happened(service, "release.registered", f"llama/{name}") == 1
    service.run_jobs()


def test_concurrent_retries_of_a_rejected_release_read_it_once(service: Service, models: Models) -> None:
    """A rejected release is read again once, however many ask for it."""
    name = unique("r")
    registered = service.register("llama", name, models.v2).json()
    service.runtime.tools.jobs.forget(registered["job"])
    with service.runtime.write() as uow:
        attempts.fail(uow, INGESTION, registered["job"], {"code": "x", "title": "x", "detail": "x", "remedy": "x"})
    answers = call_concurrently(*[lambda: service.register("llama", name, models.v2)] * CLIENTS)
    assert {a.json()["job"] for a in answers} == {registered["job"][:-1] + "2"}
    service.run_jobs()


def test_concurrent_ports_and_retirements_happen_once(service: Service, another: Callable[[], Path]) -> None:
    """One port, one sample of the lineage; retired once; made anew once."""
    patch = service.admin.patch("acme", unique("patch"))
    service.admin.publish(patch, another())
    service.execute("DELETE FROM lineage_samples")
    wish = {"patch": patch, "release": "v2"}
    for _ in range(2):
        answers = call_concurrently(
            *[lambda: service.admin.post("/ports", wish)] * CLIENTS, *[lambda: service.admin.post("/ports/check", wish)] * 2
        )
        assert statuses(answers[:CLIENTS]) == {201: 1, 200: CLIENTS - 1}
        assert statuses(answers[CLIENTS:]) == {200: 2}
        assert service.rows("SELECT count(*) FROM lineage_samples") == [(1,)]
        (port,) = {a.json()["id"] for a in answers[:CLIENTS]}
        retired = call_concurrently(*[lambda port=port: service.admin.post(f"/ports/{port}/retire")] * CLIENTS)
        assert statuses(retired) == {200: 1, 409: CLIENTS - 1}
        assert happened(service, "port.retired", port) == 1


def test_concurrent_publications_are_numbered_without_gaps(service: Service, another: Callable[[], Path]) -> None:
    """Different bytes published at once are numbered 1, 2, 3, ..."""
    patch = service.admin.patch("acme", unique("patch"))
    drafts = [service.admin.uploaded(patch, another())["id"] for _ in range(CLIENTS)]
    answers = call_concurrently(*[lambda d=draft: service.admin.post(f"/uploads/{d}/publish") for draft in drafts])
    assert statuses(answers) == {200: CLIENTS}
    assert sorted(a.json()["number"] for a in answers) == list(range(1, CLIENTS + 1))


def test_concurrent_publications_of_the_same_bytes_make_one_version(service: Service, another: Callable[[], Path]) -> None:
    """The same bytes, sent as several uploads and published at once, are one version; so is one upload published twice, whose
    second request may be refused while the first is worked on, and finds the version afterwards.
    """
    patch, directory = service.admin.patch("acme", unique("patch")), another()
    drafts = [service.admin.uploaded(patch, directory)["id"] for _ in range(CLIENTS)]
    answers = call_concurrently(*[lambda d=draft: service.admin.post(f"/uploads/{d}/publish") for draft in drafts + drafts[:2]])
    assert {a.json()["code"] for a in answers if a.status_code != 200} <= {"request.under_way"}
    assert statuses(answers)[200] >= CLIENTS
    repeated = [service.admin.post(f"/uploads/{draft}/publish") for draft in drafts]
    assert {a.json()["number"] for a in answers if a.status_code == 200} | {a.json()["number"] for a in repeated} == {1}
    assert happened(service, "version.published", f"{patch}@1") == 1


def test_concurrent_settings_of_an_alias_make_one(service: Service, another: Callable[[], Path]) -> None:
    """A new alias that several set is one alias, at one of the versions that they named."""
    patch = service.admin.patch("acme", unique("patch"))
    for _ in range(2):
        service.admin.publish(patch, another())
    url = f"/patches/{patch}/aliases/prod"
    answers = call_concurrently(*[lambda v=v: service.admin("PUT", url, json={"version": v}) for v in ("1", "2") * 3])
    assert statuses(answers) == {200: 6}
    assert list(service.admin.get(f"/patches/{patch}").json()["aliases"]) == ["prod"]


def test_concurrent_changes_with_one_etag_succeed_once(service: Service) -> None:
    """Of several that change what they read, one succeeds."""
    patch = service.admin.patch("acme", unique("patch"))
    headers = {"If-Match": service.admin.get(f"/patches/{patch}").headers["ETag"]}
    change = lambda n: service.admin("PATCH", f"/patches/{patch}", json={"description": str(n)}, headers=headers)  # noqa: E731
    answers = call_concurrently(*[lambda n=n: change(n) for n in range(CLIENTS)])
    assert statuses(answers) == {200: 1, 412: CLIENTS - 1}


def test_concurrent_requests_under_one_idempotency_key_happen_once(service: Service, another: Callable[[], Path]) -> None:
    """Under one Idempotency-Key a draft is opened once, and a name taken once; the others get that answer."""
    patch, files = service.admin.patch("acme", unique("patch")), announced(another())
    draft, family = {"trained_on": "v1", "files": files}, {"name": unique("family")}
    for path, body in ((f"/patches/{patch}/versions", draft), ("/families", family)):
        headers = {"Idempotency-Key": unique("key-")}
        answers = call_concurrently(*[lambda p=path, b=body, h=headers: service.admin.post(p, b, h)] * CLIENTS)
        assert statuses(answers) == {201: CLIENTS}
        assert len({a.content for a in answers}) == 1
        assert sum("Idempotent-Replayed" not in a.headers for a in answers) == 1
    query = "SELECT count(*) FROM patch_versions v JOIN patches p ON p.id = v.patch_id WHERE p.name = :name"
    assert service.rows(query, name=patch.removeprefix("acme/")) == [(1,)]


def test_concurrent_digest_requests_make_one_job(service: Service, another: Callable[[], Path]) -> None:
    """Asked for several times at once, they are one job."""
    patch = service.admin.patch("acme", unique("patch"))
    service.admin.publish(patch, another())
    port = service.admin.port(patch, "v2")["id"]
    answers = call_concurrently(*[lambda: service.admin.post(f"/ports/{port}/digest")] * CLIENTS)
    assert statuses(answers) == {202: CLIENTS}
    assert len({a.json()["job"] for a in answers}) == 1


# -- one transaction is open while the other waits: PostgreSQL, where they run side by side


def waiting(service: Service) -> int:
    """How many connections wait for a lock of another."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return int(service.rows(query)[0][0])


@contextmanager
def overtaken(service: Service, call: Callable[[], Any]) -> Iterator[Callable[[UnitOfWork], Future[Any]]]:
    """Starts `call` beside an open transaction and returns once it waits for that."""
    with ThreadPoolExecutor(1) as pool:

        def begin(_: UnitOfWork) -> Future[Any]:
            future = pool.submit(call)
            until(lambda: waiting(service) == 1 or future.done())
            assert not future.done(), "it did not wait"
            return future

        yield begin


@on_postgresql
def test_second_writer_of_a_name_waits_and_gets_the_repeats_answer(service: Service) -> None:
    """Whoever writes a name second waits for the first, and then gets a repeat's answer, not an error."""
    family, patch = unique("family"), unique("patch")
    with overtaken(service, lambda: service.admin.post("/families", {"name": family})) as begin:
        with service.runtime.write() as uow:
            families.create(uow, ADMIN, family)
            second = begin(uow)
        refused(second.result(30), 409, "family.taken")
    body = {"owner": "acme", "name": patch, "family": "llama"}
    with overtaken(service, lambda: service.admin.post("/patches", body)) as begin:
        with service.runtime.write() as uow:
            first, _ = patches.create(uow, ADMIN, "acme", patch, "llama")
            second = begin(uow)
        assert (second.result(30).status_code, second.result(30).json()["name"]) == (200, first.name)


@on_postgresql
def test_second_writer_succeeds_after_the_first_is_rolled_back(service: Service) -> None:
    """If the first is rolled back, the second was the first."""
    name = unique("family")
    with overtaken(service, lambda: service.admin.post("/families", {"name": name})) as begin:
        with pytest.raises(RuntimeError), service.runtime.write() as uow:  # noqa: PT012  what is raised ends the transaction
            families.create(uow, ADMIN, name)
            second = begin(uow)
            raise RuntimeError
        assert second.result(30).status_code == 201


@on_postgresql
def test_concurrent_transitions_happen_once(service: Service, another: Callable[[], Path]) -> None:
    """Approving, retiring and yanking: the second waits, sees what the first did, and is refused."""
    patch = service.admin.patch("acme", unique("patch"))
    service.admin.publish(patch, another(), "unknown")
    port, owner, name = service.admin.port(patch, "v2")["id"], *patch.split("/")
    moves: list[tuple[Callable[[UnitOfWork], Any], str, dict[str, str]]] = [
        (lambda uow: ports.approve(uow, ADMIN, port, "good"), f"/ports/{port}/approve", {"reason": "good"}),
        (lambda uow: ports.retire(uow, ADMIN, port), f"/ports/{port}/retire", {}),
        (lambda uow: versions.yank(uow, ADMIN, owner, name, 1, "bad"), f"/patches/{patch}/versions/1/yank", {"reason": "bad"}),
    ]
    for first, path, body in moves:
        with overtaken(service, lambda p=path, b=body: service.admin.post(p, b)) as begin:
            with service.runtime.write() as uow:
                first(uow)
                uow.session.flush()
                second = begin(uow)
            refused(second.result(30), 409, "state.move")


@on_postgresql
def test_port_of_a_version_that_is_being_yanked_is_refused(service: Service, another: Callable[[], Path]) -> None:
    """A port that is asked for while its version is yanked waits, and is refused."""
    patch = service.admin.patch("acme", unique("patch"))
    service.admin.publish(patch, another())
    wish, (owner, name) = {"patch": patch, "release": "v2"}, patch.split("/")
    with overtaken(service, lambda: service.admin.post("/ports", wish)) as begin:
        with service.runtime.write() as uow:
            versions.yank(uow, ADMIN, owner, name, 1, "bad")
            uow.session.flush()
            second = begin(uow)
        refused(second.result(30), 410, "version.yanked")


@on_postgresql
def test_two_tokens_that_rotate_each_other_do_not_deadlock(service: Service) -> None:
    """One rotation succeeds; the other finds that its own token has ended."""
    first, second = (service.admin.post("/tokens", {"owner": "admin", "role": "admin"}).json()["id"] for _ in range(2))

    def rotate(by: str, old: str) -> str:
        with service.runtime.write() as uow:
            tokens.rotate(uow, Principal("admin", ADMIN.scopes, by), old, dt.timedelta(0))
        return "rotated"

    with ThreadPoolExecutor(2) as pool:
        with service.connection() as connection:
            connection.execute(text("SELECT id FROM tokens WHERE id = :id FOR UPDATE"), {"id": first})
            winner = pool.submit(rotate, second, first)
            until(lambda: waiting(service) == 1 or winner.done())
            loser = pool.submit(rotate, first, second)
            until(lambda: waiting(service) == 2 or loser.done())
        assert winner.result(30) == "rotated"
        with pytest.raises(DomainError) as refusal:
            loser.result(30)
    assert refusal.value.code == "token.missing"


@on_postgresql
def test_event_cursor_waits_for_uncommitted_events(service: Service) -> None:
    """An event that has its number but is not visible yet holds later ones back: a reader who goes on at its cursor sees all."""
    early, late = unique("early"), unique("late")

    def read(cursor: int) -> tuple[list[str], int]:
        with service.runtime.read() as uow:
            found = events.after(uow, ADMIN, cursor, 500)
            return [e.subject for e in found], found[-1].id if found else cursor

    _, cursor = read(0)
    with overtaken(service, lambda: service.admin.post("/families", {"name": late})) as begin:
        with service.runtime.write() as uow:
            uow.family_event(FamilyCreated(), ADMIN, early)
            uow.write_events()  # numbered now, committed later
            second = begin(uow)
            seen, cursor = read(cursor)
            assert seen == []
        assert second.result(30).status_code == 201
    seen, _ = read(cursor)
    assert seen == [early, late]


def test_event_reader_sees_each_event_once_in_order(service: Service) -> None:
    """A reader that polls while many write has seen each event once, in order."""
    names = [unique("family") for _ in range(24)]
    cursor = service.admin.get("/events", limit=500).json()["cursor"]
    seen: list[str] = []
    done = threading.Event()

    def follow() -> None:
        nonlocal cursor
        while True:
            last = done.is_set()
            page = service.admin.get("/events", after=cursor, limit=500).json()
            cursor = page["cursor"]
            seen.extend(item["subject"] for item in page["items"])
            if last and not page["items"]:
                return

    reader = threading.Thread(target=follow)
    reader.start()
    with ThreadPoolExecutor(CLIENTS) as pool:
        made = list(pool.map(lambda name: service.admin.post("/families", {"name": name}).status_code, names))
    done.set()
    reader.join(60)
    assert set(made) == {201}
    assert sorted(seen) == sorted(names)


def test_replicas_that_start_together_make_one_first_token(migrated: Callable[[], str], tmp_path: Path) -> None:
    """They make one first token between them."""
    url = migrated()
    replicas = [Runtime(Settings(jobs=False, data=tmp_path / str(n), database_url=url, secret_key="s" * 32)) for n in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda replica: replica.start(), replicas))
    try:
        assert sum(replica.admin_token is not None for replica in replicas) == 1
        with replicas[0].read() as uow:
            assert len(events.after(uow, ADMIN, 0, 10)) == 1
    finally:
        for replica in replicas:
            replica.stop()


def test_exclusive_work_on_two_replicas_is_refused_on_the_second(migrated: Callable[[], str], tmp_path: Path) -> None:
    """Whoever comes second is told at once, and waits neither in a thread nor with a connection; other names are free."""
    url = migrated()
    replicas = [Runtime(Settings(jobs=False, data=tmp_path / str(n), database_url=url, secret_key="s" * 32)) for n in range(2)]
    for replica in replicas:
        replica.start()
    try:
        with replicas[0].exclusive("upload:x", "The upload x"), replicas[1].exclusive("upload:y", "The upload y"):
            for replica in replicas:
                with pytest.raises(DomainError) as refusal, replica.exclusive("upload:x", "The upload x"):
                    pass
                assert (refusal.value.code, refusal.value.kind) == ("request.under_way", "busy")
        with replicas[1].exclusive("upload:x", "The upload x"):
            pass
    finally:
        for replica in replicas:
            replica.stop()

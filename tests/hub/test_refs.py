"""Refs of patches with many versions: complete, on the first call; commits are written before anybody asks."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from app.db.commits import Commit
from app.db.patches import PatchVersion
from app.db.ports import Port
from app.domain.ids import new_id
from app.services.hubview import hub_commits
from app.services.hubview.hub_commits import CatchUp
from tests.support.connections import watched
from tests.support.fixtures import Models
from tests.support.hub_requests import Hub
from tests.support.registry import Caller, Service

MANY = 600
RELEASES = ("v1", "v2")


@pytest.fixture
def acme(begun: Service, models: Models) -> Caller:
    """llama with v1 and v2; acme/tone, ported to both."""
    begun.release("llama", "v2", models.v2, parent="v1")
    caller = begun.caller("acme")
    caller.publish(caller.patch("acme", "tone"), models.patch)
    for release in RELEASES:
        assert caller.port("acme/tone", release)["state"] == "ready"
    return caller


def refs(hub: Hub, repository: str) -> list[str]:
    answer = hub.get(f"/api/models/{repository}/refs")
    assert answer.status_code == 200, answer.text
    return [ref["name"] for ref in answer.json()["branches"] + answer.json()["tags"]]


def commits_of(service: Service) -> dict[str, int]:
    """How many are written down, by kind."""
    return dict(service.rows("SELECT kind, count(*) FROM commits GROUP BY kind"))


def multiply(service: Service, count: int, has_commits: bool = False) -> None:
    """Gives acme/tone more versions with the bytes and the ports of its first, as an earlier version of the service left them."""
    with service.runtime.write() as uow:
        (version,), ports = uow.session.query(PatchVersion).all(), uow.session.query(Port).all()
        written = {(commit.kind, commit.subject): commit for commit in uow.session.query(Commit)}
        rows: dict[type[Any], list[dict[str, Any]]] = {PatchVersion: [], Port: [], Commit: []}

        def add_commit(kind: str, subject: str, copy: str) -> None:
            rows[Commit].append(columns(written[kind, subject]) | {"id": new_id("cmt"), "subject": copy})

        for number in range(2, count + 1):
            digest, ident = hashlib.sha256(str(number).encode()).hexdigest(), new_id("ver")
            own = {"id": ident, "number": number, "digest": digest, "published_digest": digest}
            rows[PatchVersion].append(columns(version) | own)
            add_commit("patch", version.id, ident)
            for port in ports:
                copy = {"id": new_id("prt"), "version_id": ident, "fingerprint": f"{port.id[-20:]}{number}"}
                rows[Port].append(columns(port) | copy)
                add_commit("adapter", port.id, copy["id"])
                add_commit("merged", port.id, copy["id"])
        for table, values in rows.items():
            if table is not Commit or has_commits:
                uow.session.execute(insert(table), values)


def columns(row: Any) -> dict[str, Any]:
    return {attribute.key: getattr(row, attribute.key) for attribute in type(row).__mapper__.column_attrs}


def test_commits_are_written_when_a_version_is_published_and_a_port_becomes_ready(
    begun: Service, models: Models, another: Callable[[], Any]
) -> None:
    acme = begun.caller("acme")
    acme.publish(acme.patch("acme", "tone"), models.patch)
    assert commits_of(begun) == {"base": 1, "patch": 1}
    acme.port("acme/tone", "v1")
    assert commits_of(begun) == {"base": 1, "patch": 1, "adapter": 1, "merged": 1}
    acme.port("acme/tone", "v1", recipe={"dtype": "float32"})
    assert commits_of(begun) == {"base": 1, "patch": 1, "adapter": 1, "merged": 1}, "a recipe without a name has no commit"
    held = acme.patch("acme", "held")
    acme.publish(held, another(), "unknown")
    port = acme.port(held, "v1")
    assert (port["state"], commits_of(begun)) == ("held", {"base": 1, "patch": 2, "adapter": 1, "merged": 1})
    assert acme.post(f"/ports/{port['id']}/approve", {"reason": "ask Ann"}).status_code == 200
    assert commits_of(begun) == {"base": 1, "patch": 2, "adapter": 2, "merged": 2}


def test_commit_that_is_recorded_with_the_fact_is_the_one_that_the_bytes_tell(
    begun: Service, models: Models, another: Callable[[], Path]
) -> None:
    """With and without a README.md of the release and of the patch: the catch-up, which reads them, records the same."""
    release, patch = begun.place / "v2", another()
    shutil.copytree(models.v2, release)
    (release / "README.md").write_text("---\nlicense: llama3\n---\n# Base\n")
    (patch / "README.md").write_text("---\nlicense: mit\ntags: [x, y]\n---\n# Tone\n")
    begun.release("llama", "v2", release, parent="v1")
    acme = begun.caller("acme")
    acme.publish(acme.patch("acme", "tone"), models.patch)
    acme.publish("acme/tone", patch)
    for version in (1, 2):
        for release_name in RELEASES:
            assert acme.port("acme/tone", release_name, version=version)["state"] == "ready"

    def recorded() -> list[tuple[Any, ...]]:
        with begun.runtime.read() as uow:
            rows = uow.session.query(Commit).order_by(Commit.kind, Commit.subject).all()
            return [(row.kind, row.subject, row.root, row.name, row.files, row.texts, row.card) for row in rows]

    before = recorded()
    assert commits_of(begun) == {"base": 2, "patch": 2, "adapter": 4, "merged": 4}
    begun.execute("DELETE FROM commits")
    CatchUp(begun.runtime).go_on()
    assert recorded() == before


def test_refs_of_many_versions_are_complete_and_read_no_file(begun: Service, acme: Caller) -> None:
    """Every version and every port, past a thousand of each, in one answer."""
    multiply(begun, MANY, has_commits=True)
    with watched(begun.runtime) as blobs:
        adapters, merged = refs(Hub(acme), "acme/tone"), refs(Hub(acme), "acme/tone.merged")
    assert blobs.seen == []
    names = [str(number) for number in range(1, MANY + 1)]
    assert sorted(adapters) == sorted(["main", *names, *(f"{name}@{release}" for name in names for release in RELEASES)])
    assert sorted(merged) == sorted(["main", *RELEASES, *(f"{release}@{name}" for name in names for release in RELEASES)])


def test_catch_up_writes_what_is_missing_in_parts(begun: Service, acme: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    multiply(begun, 5)
    monkeypatch.setattr(hub_commits, "BATCH", 3)
    monkeypatch.setattr(hub_commits, "CATCH_UP_SECONDS", 0.0)
    catch_up, parts = CatchUp(begun.runtime), 0
    complete = {"base": 2, "patch": 5, "adapter": 10, "merged": 10}
    while commits_of(begun) != complete:
        catch_up.go_on()
        parts += 1
        assert parts < 20, commits_of(begun)
    assert parts >= 6, "a batch at each call; the two commits of a port are one"


def test_revision_that_an_earlier_version_left_without_a_commit_can_be_pinned(begun: Service, acme: Caller) -> None:
    """Before the catch-up comes to it: what `main` named is found by its commit id, too."""
    begun.execute("DELETE FROM commits")
    hub = Hub(acme)
    files = {"base/llama": "config.json", "acme/tone": "adapter_config.json", "acme/tone.merged": "config.json"}
    for repository, path in files.items():
        commit = hub.info(repository)["sha"]
        assert hub.get(f"/{repository}/resolve/{commit}/{path}").status_code == 200
        assert hub.info(repository, commit)["sha"] == commit


def test_refs_that_nobody_wrote_ahead_are_written_by_the_first_call(begun: Service, acme: Caller) -> None:
    multiply(begun, 20)
    assert len(refs(Hub(acme), "acme/tone")) == 1 + 3 * 20
    assert len(refs(Hub(acme), "acme/tone.merged")) == 3 + 2 * 20


def test_refs_that_take_too_long_are_refused_and_the_next_call_goes_on(
    begun: Service, acme: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No part of them passes for the whole."""
    multiply(begun, 4)
    monkeypatch.setattr(hub_commits, "BATCH", 2)
    monkeypatch.setattr("app.hub.routers.models.WRITE_SECONDS", 0.0)
    hub = Hub(acme)
    first = hub.get("/api/models/acme/tone/refs")
    assert (first.status_code, first.json()["code"]) == (503, "server.busy")
    monkeypatch.setattr("app.hub.routers.models.WRITE_SECONDS", 60.0)
    assert len(refs(hub, "acme/tone")) == 1 + 3 * 4


def test_history_of_many_versions_is_complete(begun: Service, acme: Caller) -> None:
    multiply(begun, 230, has_commits=True)
    hub = Hub(acme)
    for repository, revision in (("acme/tone", "main"), ("acme/tone", "230@v2"), ("acme/tone.merged", "v2@230")):
        found, path = list[str](), f"/api/models/{repository}/commits/{revision}?limit=100"
        while path:
            page = hub.get(path)
            assert page.status_code == 200, page.text
            found += [commit["title"] for commit in page.json()]
            path = page.links["next"]["url"] if "next" in page.links else ""
        assert len(found) == 230
        assert [title.split()[1] for title in found] == [str(number) for number in range(230, 0, -1)]


def test_purged_version_gets_no_commit_by_the_catch_up(begun: Service, acme: Caller) -> None:
    """Not even where it was purged while its files were read."""
    multiply(begun, 3)
    with begun.runtime.read() as uow:
        subjects = [("patch", row.id) for row in uow.session.query(PatchVersion).order_by(PatchVersion.number)]
    library = begun.runtime.tools.artifacts
    opened = library.open_file

    def purging(*arguments: Any) -> Any:
        begun.execute("UPDATE patch_versions SET state = 'purged', purged_at = created_at, erasure = '{}' WHERE number = 2")
        return opened(*arguments)

    library.open_file = purging  # type: ignore[method-assign]
    try:
        hub_commits.write(begun.runtime, subjects, 60.0)
    finally:
        del library.open_file
    written = {row[0] for row in begun.rows("SELECT subject FROM commits WHERE kind = 'patch'")}
    assert written == {subjects[0][1], subjects[2][1]}


def test_reference_list_holds_no_connection_while_it_reads_bytes(begun: Service, acme: Caller) -> None:
    """Each revision that nobody asked for before is looked at."""
    service = begun
    multiply(service, 3)
    with watched(service.runtime) as blobs:
        for repository in ("acme/tone", "acme/tone.merged"):
            assert Hub(acme).get(f"/api/models/{repository}/refs").status_code == 200
    assert blobs.seen
    assert blobs.held() == []


def test_refs_of_a_family_with_a_damaged_release_name_the_others(begun: Service, models: Models) -> None:
    """A release whose bytes are not read any more has no commit, and keeps no other from having one."""
    directory = begun.place / "damaged"
    shutil.copytree(models.v2, directory)
    (directory / "README.md").write_text("---\nlicense: mit\n---\n")  # read for the card
    begun.release("llama", "damaged", directory)
    begun.execute("UPDATE releases SET damaged_path = 'README.md' WHERE name = 'damaged'")
    begun.execute("DELETE FROM commits")
    assert refs(Hub(begun.admin), "base/llama") == ["v1"]

"""How an event of each kind is stored and served: clients read kinds and data by name."""

import json
from typing import Any

import pytest

from app.domain.events import access, families, jobs, patches, ports
from app.domain.events.base import Event, FamilyEvent, OwnerEvent
from app.domain.events.catalogue import CATALOGUE
from app.domain.principal import Principal
from tests.support.fixtures import World

ASSESSED = {"patch": "acme/tone", "version": 1, "release": "v2", "forced": False}
IMPORT = {"upstream": "own", "repository": "org/tone", "commit": "c0ffee"}
ENDED = {"code": "import.base", "repository": "org/tone"}
MATERIALISED = {"port": "prt_1", "target": "s3://b/p"}
JOB = {"kind": "digest", "subject": "prt_1"}
PROGRESS = {"done": 1, "total": 2, "note": "Merging", "rate": 3, "tensors_done": None, "tensors_total": None}
VOUCHED = {"issuer": "https://i", "subject": "s", "rule": 0}
NEW_TOKEN = {"scopes": ["read"], "expires_at": None}

GOLDEN: list[tuple[Event, str, dict[str, Any]]] = [
    (families.FamilyCreated(), "family.created", {}),
    (families.FamilyGranted(to="acme"), "family.granted", {"to": "acme"}),
    (families.FamilyWithdrawn(to="*"), "family.withdrawn", {"to": "*"}),
    (families.FamilyNamed(name="m/l", revision=None), "family.named", {"name": "m/l", "revision": None}),
    (families.FamilyUnnamed(name="m/l", revision="r"), "family.unnamed", {"name": "m/l", "revision": "r"}),
    (families.ReleaseRegistered(source="/m"), "release.registered", {"source": "/m"}),
    (
        families.ReleaseReady(manifest="d", bytes=5, release_id="r", files=[], front={}), "release.ready",
        {"manifest": "d", "bytes": 5},
    ),
    (families.ReleaseRejected(code="c", detail="d"), "release.rejected", {"code": "c", "detail": "d"}),
    (families.ReleaseYanked(reason="r"), "release.yanked", {"reason": "r"}),
    (families.ReleaseDamaged(path="p"), "release.damaged", {"path": "p"}),
    (families.ReleaseReaccepted(files=2), "release.reaccepted", {"files": 2}),
    (patches.RepositoryAnnounced(), "repository.announced", {}),
    (patches.RepositoryForgotten(), "repository.forgotten", {}),
    (patches.PatchCreated(family="llama"), "patch.created", {"family": "llama"}),
    (patches.PatchChanged(), "patch.changed", {}),
    (patches.VersionPublished(trained_on="v1", version_id="v", front={}), "version.published", {"trained_on": "v1"}),
    (patches.VersionYanked(reason="r"), "version.yanked", {"reason": "r"}),
    (patches.VersionPurged(reason="r", digest="d"), "version.purged", {"reason": "r", "digest": "d"}),
    (patches.VersionErased(blobs=2, kept=1, copies=0), "version.erased", {"blobs": 2, "kept": 1, "copies": 0}),
    (patches.AliasMoved(version=1), "alias.moved", {"version": 1}),
    (patches.AliasRemoved(version=1), "alias.removed", {"version": 1}),
    (patches.ImportRequested(sources=["own:a/b"], count=1), "import.requested", {"sources": ["own:a/b"], "count": 1}),
    (patches.ImportImported(**IMPORT), "import.imported", IMPORT),
    (patches.ImportPresent(**IMPORT), "import.present", IMPORT),
    (patches.ImportRefused(**ENDED), "import.refused", ENDED),
    (patches.ImportCancelled(**ENDED), "import.cancelled", ENDED),
    (ports.PortReady(**ASSESSED, contents=None), "port.ready", ASSESSED),
    (ports.PortReady(approved=True, reason="r", contents=None), "port.ready", {"approved": True, "reason": "r"}),
    (ports.PortHeld(**ASSESSED), "port.held", ASSESSED),
    (ports.PortRefused(**ASSESSED), "port.refused", ASSESSED),
    (ports.PortRetired(), "port.retired", {}),
    (ports.PortDigested(files=2), "port.digested", {"files": 2}),
    (ports.MaterialisationQueued(**MATERIALISED), "materialisation.queued", MATERIALISED),
    (
        ports.MaterialisationDone(**MATERIALISED, bytes_copied=1, bytes_moved=2), "materialisation.done",
        {**MATERIALISED, "bytes_copied": 1, "bytes_moved": 2},
    ),
    (ports.MaterialisationFailed(port="prt_1", code="c"), "materialisation.failed", {"port": "prt_1", "code": "c"}),
    (ports.MaterialisationCancelled(port="prt_1", code="c"), "materialisation.cancelled", {"port": "prt_1", "code": "c"}),
    (jobs.JobStarted(**JOB, attempt=1), "job.started", {**JOB, "attempt": 1}),
    (jobs.JobProgress(**JOB, progress=PROGRESS), "job.progress", JOB | PROGRESS),
    (jobs.JobDone(**JOB), "job.done", JOB),
    (jobs.JobFailed(**JOB, code="c", detail="d"), "job.failed", {**JOB, "code": "c", "detail": "d"}),
    (jobs.JobCancelled(**JOB), "job.cancelled", JOB),
    (jobs.JobRetried(**JOB, before="j"), "job.retried", {**JOB, "before": "j"}),
    (jobs.WorkerMissing(jobs=2, since="t"), "worker.missing", {"jobs": 2, "since": "t"}),
    (jobs.WorkerResolved(since="t"), "worker.resolved", {"since": "t"}),
    (access.TokenCreated(**NEW_TOKEN), "token.created", NEW_TOKEN),
    (access.TokenExchanged(**NEW_TOKEN, **VOUCHED), "token.exchanged", NEW_TOKEN | VOUCHED),
    (access.TokenRotated(by="tok_1"), "token.rotated", {"by": "tok_1"}),
    (access.TokenRevoked(), "token.revoked", {}),
    (access.QuotaChanged(limits={"bytes": 5, "jobs": None}), "quota.changed", {"bytes": 5, "jobs": None}),
    (
        access.UpstreamPut(endpoint="https://h", has_token=True, publishers=False), "upstream.put",
        {"endpoint": "https://h", "has_token": True, "publishers": False},
    ),
    (access.UpstreamRemoved(), "upstream.removed", {}),
]  # fmt: skip


def test_every_kind_has_a_golden_event() -> None:
    assert {kind for _, kind, _ in GOLDEN} == set(CATALOGUE)


def test_an_event_of_each_kind_is_served_as_before(world: World) -> None:
    """By page, in the audit trail and by a live stream, with the same names in the same order."""
    ((start,),) = world.service.rows("SELECT max(id) FROM events")
    actor = Principal("acme", frozenset({"publish"}), "tok_9", "192.0.2.7", "req")
    with world.service.runtime.write() as uow:
        uow.handlers = {}  # the subjects are not there
        for event, _, _ in GOLDEN:
            if isinstance(event, OwnerEvent):
                uow.event(event, actor, "acme", "subject")
            else:
                assert isinstance(event, FamilyEvent)
                uow.family_event(event, actor, "llama", "v1")
    page = world.admin.get("/events", after=start, limit=500).json()["items"]
    expected = []
    for (event, kind, data), served in zip(GOLDEN, page, strict=True):
        owner, subject = ("acme", "subject") if isinstance(event, OwnerEvent) else ("registry", "llama/v1")
        shown = {"id": served["id"], "at": served["at"], "kind": kind, "owner": owner, "subject": subject, "actor": "acme"}
        expected.append(shown | {"data": data})
    assert list(map(json.dumps, page)) == list(map(json.dumps, expected))
    lines = world.admin("GET", "/audit", params={"after": start}).text.splitlines()
    known = {"token": "tok_9", "address": "192.0.2.7", "request": "req"}
    assert list(map(json.loads, lines)) == [shown | known for shown in expected]


def test_data_of_another_kind_is_refused() -> None:
    """An event cannot be made with a name that its kind does not have, or without one that it has."""
    with pytest.raises(TypeError):
        ports.PortDigested(count=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        ports.PortDigested()  # type: ignore[call-arg]


def test_kinds_are_named_in_the_schema(world: World) -> None:
    """Generated clients know all kinds; what each carries is described."""
    shown = world.service.client.get("/openapi.json").json()["components"]["schemas"]["EventOut"]["properties"]
    assert shown["kind"]["enum"] == list(CATALOGUE)
    assert "`port.digested`: files." in shown["data"]["description"]

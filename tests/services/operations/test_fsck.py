"""`portllm fsck`: every kind of trouble is made, and named; a busy registry without any is clean."""

import dataclasses
import datetime as dt
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import insert

from app.db.aliases import Alias
from app.db.base import now
from app.db.materialisations import Materialisation
from app.db.patches import PatchVersion
from app.db.ports import Port
from app.db.releases import Release
from app.domain.ids import new_id
from app.services.operations import garbage_collection
from app.services.operations.fsck import check
from app.services.operations.fsck.troubles import REMEDIES, Unseen
from tests.support.fixtures import Models
from tests.support.fsck import altered_row, fsck_report, troubles_by_code
from tests.support.registry import Service
from tests.support.s3 import S3Server
from tests.support.service_process import invoke
from tests.support.uploads import append, with_card

HOUR = 3600.0


@pytest.fixture(scope="module")
def busy(
    registries: Callable[..., Service], models: Models, s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimpleNamespace]:
    """A registry in the middle of its work, in which everything is as it should be."""
    root, bucket = tmp_path_factory.mktemp("busy"), s3.bucket()
    with pytest.MonkeyPatch.context() as patched, registries(allow_s3=[f"s3://{bucket}/exports"]).running() as service:
        for name, value in s3.environment().items():
            patched.setenv(name, value)
        admin = service.admin
        admin.family("llama")
        for name, directory in (("v1", models.v1), ("v2", models.v2), ("alien", models.alien)):
            service.release("llama", name, directory, copy=name == "v2")
        (service.place / "empty").mkdir()
        assert service.release("llama", "bad", service.place / "empty")["state"] == "rejected"
        waiting = service.register("llama", "waiting", models.v1).json()
        tone = admin.patch("acme", "tone")
        cards = [with_card(models.patch, root / f"card{n}", f"card {n}") for n in range(3)]
        versions = [admin.publish(tone, directory)["number"] for directory in cards[:2]]
        origin = admin.patch("acme", "origin")
        admin.publish(origin, models.patch, trained_on="unknown")
        for alias in ("prod", "next"):
            assert admin("PUT", f"/patches/{tone}/aliases/{alias}", json={"version": "1"}).status_code == 200
        draft = admin.draft(tone, cards[2])
        assert append(admin, draft["uploads"][0]["url"], 0, b"x").status_code == 204
        states = {
            "ready": admin.port(tone, "v2"), "refused": admin.port(tone, "alien", version="1"),
            "forced": admin.port(tone, "alien", force="a test"), "held": admin.port(origin, "v1"),
            "retired": admin.port(tone, "v1"),
        }  # fmt: skip
        assert admin.post(f"/ports/{states['retired']['id']}/retire").status_code == 200
        assert admin.post(f"/patches/{tone}/versions/2/yank", {"reason": "old"}).status_code == 200
        target = {"to": f"s3://{bucket}/exports/queued"}
        queued = admin.post(f"/ports/{states['ready']['id']}/materialise", target).json()
        done = write(service, s3, bucket, states["ready"]["id"])
        ids = dict(service.rows("SELECT name, id FROM releases"))
        row = service.rows("SELECT id FROM patch_versions WHERE number = 1 AND digest = :d", d=digest_of(service, tone, 1))
        yield SimpleNamespace(
            service=service, admin=admin, s3=s3, bucket=bucket, waiting=waiting, versions=versions, draft=draft["id"],
            ports={name: port["id"] for name, port in states.items()}, queued=queued, done=done, releases=ids, tone=row[0][0],
            models=models,
        )  # fmt: skip


def digest_of(service: Service, patch: str, number: int) -> str:
    return str(service.admin.get(f"/patches/{patch}/versions/{number}").json()["digest"])


def write(service: Service, s3: S3Server, bucket: str, port: str) -> str:
    """A materialisation that is done, with two small files at its place."""
    ident, files = new_id("mat"), {"config.json": b"{}", "model.safetensors": b"bytes"}
    for path, content in files.items():
        s3.client().put_object(Bucket=bucket, Key=f"exports/done/{path}", Body=content)
    result = {"files": [{"path": path, "size": len(content)} for path, content in files.items()]}
    with service.connection() as connection:
        connection.execute(
            insert(Materialisation).values(
                id=ident, created_at=now(), port_id=port, owner="acme", target=f"s3://{bucket}/exports/done", state="done",
                attempt=1, result=result, finished_at=now(), row_version=1,
            )
        )  # fmt: skip
    return ident


def test_a_busy_registry_is_clean(busy: SimpleNamespace) -> None:
    """Jobs wait, drafts arrive, ports in every state, bytes by reference, copied and written out: nothing is wrong."""
    for quick in (True, False):
        report = fsck_report(busy.service, quick)
        assert (report.troubles, report.unseen, report.clean) == ([], [], True)
    states = {state for (state,) in busy.service.rows("SELECT DISTINCT state FROM ports")}
    assert states == {"ready", "refused", "held", "retired"}


@pytest.mark.parametrize("page", [1, 2, 3])
def test_pages_end_anywhere(busy: SimpleNamespace, page: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row is looked at once, however many make a page: a trouble in each is found, and the count is right."""
    monkeypatch.setattr(check, "PAGE", page)
    seen: dict[str, tuple[int, int | None]] = {}
    opened = SimpleNamespace(tools=busy.service.runtime.tools, read=busy.service.runtime.read)
    with altered_row(busy.service, Port, busy.ports["held"], fingerprint="0" * 64):
        troubles = [f.code for f in check.check(opened, True, lambda what, done, total: seen.update({what: (done, total)}))]
    assert troubles == ["port.fingerprint"]
    for what, table in (("releases", "releases"), ("versions", "patch_versions"), ("ports", "ports"), ("aliases", "aliases")):
        (count,) = busy.service.rows(f"SELECT count(*) FROM {table}")[0]
        assert seen[what] == (count, count)


VERSION_DAMAGE = {
    "files": {"files": [{"path": "x", "size": 1, "sha256": "0" * 64}]},
    "bytes": {"total_bytes": 1},
}  # fmt: skip


@pytest.mark.parametrize("damage", VERSION_DAMAGE)
def test_version_whose_files_differ_from_its_digest_or_size_is_reported(busy: SimpleNamespace, damage: str) -> None:
    with altered_row(busy.service, PatchVersion, busy.tone, **VERSION_DAMAGE[damage]):
        assert "version.files" in troubles_by_code(busy.service)


def test_an_abandoned_draft(busy: SimpleNamespace) -> None:
    """One that the sweep should have taken long ago."""
    with altered_row(busy.service, PatchVersion, busy.draft, created_at=now() - dt.timedelta(days=3)):
        assert troubles_by_code(busy.service) == {"draft.abandoned": [f"acme/tone {busy.draft}"]}


def test_alias_of_a_version_that_cannot_be_selected_is_reported(busy: SimpleNamespace) -> None:
    """At a yanked version, at a draft."""
    alias = busy.service.rows("SELECT id FROM aliases WHERE name = 'prod'")[0][0]
    yanked = busy.service.rows("SELECT id FROM patch_versions WHERE state = 'yanked'")[0][0]
    for target, code in ((yanked, "alias.yanked"), (busy.draft, "alias.unpublished")):
        with altered_row(busy.service, Alias, alias, version_id=target):
            assert troubles_by_code(busy.service) == {code: ["acme/tone@prod"]}


PORT_DAMAGE = {
    "fingerprint": ("port.fingerprint", "ready", {"fingerprint": "0" * 64}),
    "recipe-changed": ("port.fingerprint", "ready", {"recipe": {"strategy": "add", "dtype": "float16", "tokenizer": "release"}}),
    "recipe-lost": ("port.recipe", "held", {"recipe": {"strategy": "magic"}}),
    "refused-but-ready": ("port.findings", "refused", {"state": "ready", "ready_at": now()}),
    "not-forced": ("port.findings", "forced", {"forced": False}),
    "refused-for-nothing": ("port.findings", "refused", {"findings": []}),
}  # fmt: skip


@pytest.mark.parametrize("damage", PORT_DAMAGE)
def test_ports_that_contradict_themselves(busy: SimpleNamespace, damage: str) -> None:
    """State against findings, fingerprint against recipe."""
    code, port, values = PORT_DAMAGE[damage]
    with altered_row(busy.service, Port, busy.ports[port], **values):
        troubles = troubles_by_code(busy.service)
    assert list(troubles) == [code]
    assert busy.ports[port] in troubles[code][0]


def test_ports_of_what_cannot_be_read(busy: SimpleNamespace) -> None:
    """A version that is a draft again, a release that is rejected, one of another family."""
    ready = busy.ports["ready"]
    with altered_row(busy.service, Port, ready, version_id=busy.draft):
        assert ready in troubles_by_code(busy.service)["port.version"][0]
    with altered_row(busy.service, Release, busy.releases["v2"], state="rejected"):
        assert ready in troubles_by_code(busy.service)["port.release"][0]
    other = busy.admin.post("/families", {"name": "other"}).json()["name"]
    family = busy.service.rows("SELECT id FROM families WHERE name = :name", name=other)[0][0]
    with altered_row(busy.service, Release, busy.releases["v2"], family_id=family):
        assert ready in troubles_by_code(busy.service)["port.release"][0]


def test_release_that_is_ingested_without_a_job_is_reported(busy: SimpleNamespace) -> None:
    with altered_row(busy.service, Release, busy.releases["waiting"], attempt=7):
        assert troubles_by_code(busy.service) == {"release.stuck": ["llama/waiting"]}


def test_materialisations_without_job(busy: SimpleNamespace) -> None:
    """Waiting for nobody; running nowhere."""
    for state in ("queued", "running"):
        with altered_row(busy.service, Materialisation, busy.queued["id"], state=state, attempt=7):
            assert troubles_by_code(busy.service) == {"materialisation.stuck": [f"{busy.queued['id']} ({busy.queued['target']})"]}


def test_what_was_written_and_changed(busy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that grew, one that is gone, all gone; a store that is away is said so, and is no trouble."""
    client, at = busy.s3.client(), {"Bucket": busy.bucket, "Key": "exports/done/config.json"}
    subject = f"{busy.done} (s3://{busy.bucket}/exports/done)"
    try:
        client.put_object(**at, Body=b"{  }")
        assert troubles_by_code(busy.service) == {"materialisation.size": [subject]}
        client.delete_object(**at)
        assert troubles_by_code(busy.service) == {"materialisation.missing": [subject]}
        client.delete_object(Bucket=busy.bucket, Key="exports/done/model.safetensors")
        assert troubles_by_code(busy.service) == {"materialisation.missing": [subject, subject]}
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        report = fsck_report(busy.service)
        assert (report.clean, [unseen.subject for unseen in report.unseen]) == (True, [subject])
        monkeypatch.undo()
    finally:
        client.put_object(**at, Body=b"{}")
        client.put_object(Bucket=busy.bucket, Key="exports/done/model.safetensors", Body=b"bytes")
    tools = busy.service.runtime.tools
    monkeypatch.setattr(busy.service.runtime, "tools", dataclasses.replace(tools, allowed_s3=()))
    assert fsck_report(busy.service).unseen == [
        Unseen(subject, f"s3://{busy.bucket}/exports/done does not lie below a place in S3 that may be used here.")
    ]


def test_a_draft_whose_parts_are_gone(
    fresh: Callable[..., Service], models: Models, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent straight to S3, where somebody's clean-up took the parts away; before that, it is a draft like any other."""
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    bucket = s3.bucket()
    service = fresh(blobs=f"s3://{bucket}/registry")
    service.admin.family("llama")
    service.admin.patch("acme", "tone")
    draft = service.admin.draft("acme/tone", models.patch, trained_on="unknown")
    path = draft["uploads"][0]["path"]
    assert service.admin.post(f"/uploads/{draft['id']}/direct", {"path": path}).status_code == 200
    assert troubles_by_code(service) == {}
    (begun,) = s3.client().list_multipart_uploads(Bucket=bucket)["Uploads"]
    s3.client().abort_multipart_upload(Bucket=bucket, Key=begun["Key"], UploadId=begun["UploadId"])
    assert troubles_by_code(service) == {"draft.gone": [f"acme/tone {draft['id']}"]}


# -- bytes


@pytest.fixture
def stocked(begun: Service, models: Models) -> Service:
    """A registry with a release by reference, one that was copied, and a published patch."""
    begun.release("llama", "v2", models.v2, copy=True)
    begun.admin.publish(begun.admin.patch("acme", "tone"), models.patch)
    return begun


def blob(service: Service, digest: str) -> Path:
    path = service.data / "blobs/sha256" / digest[:2] / digest
    path.chmod(0o600)
    return path


def test_bytes_that_changed(stocked: Service) -> None:
    """One bit is found by reading, a byte too many by looking; a manifest that is none by opening it."""
    version = stocked.admin.get("/patches/acme/tone/versions/1").json()
    weights, config = (next(f for f in version["files"] if f["path"].endswith(end)) for end in (".safetensors", "_config.json"))
    content = bytearray(blob(stocked, weights["sha256"]).read_bytes())
    content[-1] ^= 1
    blob(stocked, weights["sha256"]).write_bytes(bytes(content))
    assert troubles_by_code(stocked) == {}
    assert troubles_by_code(stocked, quick=False) == {"blob.digest": ["acme/tone@1/adapter_model.safetensors"]}
    blob(stocked, config["sha256"]).write_bytes(b"{}")
    assert troubles_by_code(stocked) == {"blob.size": ["acme/tone@1/adapter_config.json"]}
    manifest = stocked.admin.get("/families/llama/releases/v1").json()["manifest"]
    blob(stocked, manifest).write_bytes(b"{")
    assert troubles_by_code(stocked)["release.unreadable"] == ["llama/v1"]


def test_bytes_that_are_gone(stocked: Service) -> None:
    """Of a version, of a copy, and the manifest itself."""
    version = stocked.admin.get("/patches/acme/tone/versions/1").json()
    blob(stocked, version["files"][0]["sha256"]).unlink()
    assert troubles_by_code(stocked) == {"blob.missing": [f"acme/tone@1/{version['files'][0]['path']}"]}
    manifest = stocked.admin.get("/families/llama/releases/v1").json()["manifest"]
    blob(stocked, manifest).unlink()
    assert "llama/v1 manifest" in troubles_by_code(stocked)["blob.missing"]


def test_what_the_command_line_says(stocked: Service) -> None:
    """Exit code 0 and a sentence when all is well; 1, a table and what to do when not; with --json, all of it."""
    known = {} if stocked.on_sqlite else {"PORTLLM_DATABASE_URL": stocked.settings.database_url}
    ended = invoke("fsck", "--data", stocked.data, **known)
    assert (ended.exit_code, ended.stdout) == (0, "Everything is as it should be.\n"), ended.output
    version = stocked.admin.get("/patches/acme/tone/versions/1").json()
    blob(stocked, version["files"][0]["sha256"]).unlink()
    ended = invoke("fsck", "--data", stocked.data, "--quick", COLUMNS="300", **known)
    assert ended.exit_code == 1
    assert "1 blob.missing" in ended.stdout
    assert REMEDIES["blob.missing"] in ended.stdout
    ended = invoke("fsck", "--data", stocked.data, "--quick", "--json", **known)
    told = json.loads(ended.stdout)
    assert (ended.exit_code, told["clean"], told["counts"], told["unseen"]) == (1, False, {"blob.missing": 1}, [])
    assert told["troubles"][0].keys() == {"code", "subject", "detail", "remedy"}


def test_a_release_that_changed_where_it_lies(fresh: Callable[..., Service], models: Models) -> None:
    """By reference: a file that is another one now."""
    service = fresh()
    service.admin.family("llama")
    directory = service.place / "v1"
    directory.mkdir()
    for path in models.v1.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    service.release("llama", "v1", directory)
    os.utime(directory / "config.json", ns=(1, 1))
    assert troubles_by_code(service) == {"release.changed": ["llama/v1/config.json"]}


def test_what_nobody_names(stocked: Service) -> None:
    """Bytes and uploads that were left behind, once they are older than what may still be on its way."""
    blobs = stocked.runtime.tools.blobs
    for upload in ("forgotten", "ver_gone"):
        blobs.append(upload, "0", 0, b"abc")
    stray = stocked.data / "blobs/sha256/00" / ("00" + "a" * 62)
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"x")
    assert troubles_by_code(stocked) == {}
    staging = stocked.data / "blobs/staging"
    for path in (staging / "ver_gone/0", staging / "ver_gone"):
        os.utime(path, (time.time() - 2 * HOUR,) * 2)
    assert troubles_by_code(stocked) == {"staging.orphan": ["ver_gone"]}
    for path in (stray, staging / "forgotten/0", staging / "forgotten"):
        os.utime(path, (1, 1))
    expected = {"blob.unnamed": [stray.name], "staging.abandoned": ["forgotten"], "staging.orphan": ["ver_gone"]}
    assert troubles_by_code(stocked) == expected


def test_a_row_that_somebody_is_at_work_on(busy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that looks stuck, and is ready when it is read again, was no trouble."""
    jobs = busy.service.runtime.tools.jobs
    statuses = jobs.statuses

    def ended_just_now(asked: Sequence[str]) -> dict[str, Any]:
        busy.service.execute("UPDATE releases SET state = 'rejected' WHERE id = :ident", ident=busy.releases["waiting"])
        return statuses([job for job in asked if job != busy.waiting["job"]])

    with altered_row(busy.service, Release, busy.releases["waiting"], state="ingesting"):
        monkeypatch.setattr(jobs, "statuses", ended_just_now)
        assert troubles_by_code(busy.service) == {}


# -- references


def test_rows_without_references_are_found(stocked: Service) -> None:
    """As the version before writes them. What is unreferenced is not known then, and said to be so; a collection mends it."""
    stocked.execute("DELETE FROM blob_refs WHERE noun = 'version'")
    report, (ident,) = fsck_report(stocked), stocked.rows("SELECT id FROM patch_versions")[0]
    assert [(t.code, t.subject) for t in report.troubles] == [("reference.missing", f"version {ident}")]
    assert [unseen.subject for unseen in report.unseen] == ["bytes that nothing references"]
    garbage_collection.collect(stocked.runtime.read, stocked.runtime.write)
    assert (troubles_by_code(stocked), fsck_report(stocked).unseen) == ({}, [])


def test_references_that_no_row_lists_are_found(stocked: Service) -> None:
    """Of rows that are gone; and of one that lists other bytes, which is found with what it lacks."""
    (release,) = stocked.rows("SELECT id FROM releases WHERE name = 'v2'")[0]
    stocked.execute("INSERT INTO blob_refs (digest, noun, row_id, owner) VALUES (:d, 'draft', 'ver_gone', 'acme')", d="a" * 64)
    assert troubles_by_code(stocked) == {"reference.stale": ["draft ver_gone"]}
    stocked.execute("UPDATE blob_refs SET row_id = :id, noun = 'release' WHERE row_id = 'ver_gone'", id=release)
    assert troubles_by_code(stocked) == {"reference.wrong": [f"release {release}"], "blob.missing": ["llama/v2"]}

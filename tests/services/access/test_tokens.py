"""Tokens: made once, shown once, kept as a hash, bound to an owner and scopes."""

import hashlib
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import inspect

from app.domain.errors import DomainError
from app.main import create_app
from app.settings import Settings
from tests.support.fixtures import World
from tests.support.registry import Caller, Service, refused, unique


def test_token_works_until_it_is_revoked(world: World) -> None:
    """A token speaks for its owner until it is revoked, at once and for good."""
    owner = unique("team")
    made = world.admin.post("/tokens", {"owner": owner, "scopes": ["publish", "read"], "name": "ci"})
    assert made.status_code == 201
    assert made.headers["Cache-Control"] == "no-store"
    token = made.json()
    assert token["token"].startswith("plt_")
    assert (token["owner"], token["scopes"], token["name"]) == (owner, ["read", "publish"], "ci")
    somebody = Caller(world.service.client, token["token"])
    assert somebody.get("/whoami").json()["scopes"] == ["publish", "read"]
    (listed,) = (t for t in world.admin.get("/tokens").json()["items"] if t["id"] == token["id"])
    assert listed == {k: v for k, v in token.items() if k != "token"}
    revoked = world.admin("DELETE", f"/tokens/{token['id']}")
    assert revoked.json()["revoked_at"]
    refused(somebody.get("/whoami"), 401, "token.missing")
    again = world.admin("DELETE", f"/tokens/{token['id']}")
    assert again.json() == revoked.json()
    kinds = [e["kind"] for e in world.admin.get("/events", limit=500).json()["items"] if e["subject"] == token["id"]]
    assert kinds == ["token.created", "token.revoked"]
    refused(world.admin("DELETE", "/tokens/tok_nope"), 404, "token.unknown")


@pytest.mark.parametrize("scopes", [["write"], ["read", "Admin"], ["read", ""]])
def test_unknown_scope_is_refused(world: World, scopes: list[str]) -> None:
    """Only those that there are."""
    refused(world.admin.post("/tokens", {"owner": "acme", "scopes": scopes}), 422, "token.scopes")


def test_token_without_a_scope_is_refused(world: World) -> None:
    """A token for nothing is not made."""
    refused(world.admin.post("/tokens", {"owner": "acme", "scopes": []}), 422, "request.invalid")


def test_secrets_are_kept_as_hashes(fresh: Callable[..., Service]) -> None:
    """No file of the data directory but the admin's own holds a secret; the database holds its sha256."""
    service = fresh()
    secrets = [str(service.admin.token), *(str(service.caller(unique("team")).token) for _ in range(3))]
    files = [p for p in service.data.rglob("*") if p.is_file() and p.name != "admin-token"]
    assert any(p.name == "portllm.db" for p in files) == service.on_sqlite
    for file in files:
        content = file.read_bytes()
        for secret in secrets:
            assert secret.encode() not in content, file
            assert secret.removeprefix("plt_").encode() not in content, file
    hashes = {row[0] for row in service.rows("SELECT hash FROM tokens")}
    assert hashes == {hashlib.sha256(secret.encode()).hexdigest() for secret in secrets}


def test_first_admin_token_is_made_once(tmp_path: Path) -> None:
    """Made at the first start only, written for its owner's eyes, shown once."""
    settings = Settings(jobs=False, data=tmp_path / "data")
    first = create_app(settings)
    with TestClient(first):
        shown = first.state.registry.admin_token
    file = tmp_path / "data" / "admin-token"
    assert file.read_text() == f"{shown}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    before = file.stat()
    second = create_app(settings)
    with TestClient(second) as client:
        assert second.state.registry.admin_token is None
        assert client.get("/api/v1/whoami", headers={"Authorization": f"Bearer {shown}"}).json()["owner"] == "admin"
        assert len(client.get("/api/v1/tokens", headers={"Authorization": f"Bearer {shown}"}).json()["items"]) == 1
    assert file.stat() == before
    # Lost: it is not made again, which would let whoever can write into the directory in.
    file.unlink()
    third = create_app(settings)
    with TestClient(third):
        assert third.state.registry.admin_token is None
    assert not file.exists()


def test_second_service_on_a_data_directory_is_refused(tmp_path: Path) -> None:
    """A second service on the same data is refused while the first runs."""
    settings = Settings(jobs=False, data=tmp_path / "data")
    with TestClient(create_app(settings)):
        with pytest.raises(DomainError) as caught:
            create_app(settings).state.registry.start()
        assert caught.value.code == "data.locked"
        assert str(tmp_path / "data") in caught.value.detail
    with TestClient(create_app(settings)) as client:
        assert client.get("/healthz").status_code == 200


def test_request_without_its_scope_is_refused(world: World) -> None:
    """read cannot publish, publish cannot administer, and each is told which scope it lacks."""
    acme, reader = world.acme, world.reader
    patch = world.patch()
    digest = {"path": "a", "size": 0, "sha256": "0" * 64}
    for response in (
        reader.post("/patches", {"owner": "acme", "name": "mine", "family": "llama"}),
        reader("PATCH", f"/patches/{patch}", json={"description": ""}),
        reader("PUT", f"/patches/{patch}/aliases/prod", json={"version": "1"}),
        reader.post(f"/patches/{patch}/versions", {"trained_on": "v1", "files": [digest]}),
        reader.post("/patches/acme/tone/versions/1/yank", {"reason": "x"}),
        reader.post("/ports", {"patch": "acme/tone", "release": "v1"}),
        reader.post(f"/ports/{world.port['id']}/approve", {"reason": "x"}),
        reader.post(f"/ports/{world.port['id']}/retire"),
    ):
        assert refused(response, 403, "token.scope")["data"] == {"scope": "publish", "owner": "acme"}
    for caller in (acme, reader):
        for response in (
            caller.post("/families", {"name": "mine"}),
            caller.post("/families/llama/releases", {"name": "v9", "directory": str(world.models.v1)}),
            caller.post("/families/llama/releases/v1/yank", {"reason": "x"}),
            caller.post("/tokens", {"owner": "acme", "scopes": ["admin"]}),
        ):
            assert refused(response, 403, "token.scope")["data"]["scope"] == "admin"
        for response in (caller.get("/tokens"), caller("DELETE", "/tokens/tok_x")):
            assert refused(response, 403, "token.scope")["data"]["scope"] == "operate"
    for path in ("/families", "/releases", "/patches/acme/tone", "/ports", "/events", "/jobs", "/whoami"):
        assert reader.get(path).status_code == 200
    draft = acme.draft(patch, world.models.patch)
    for response in (
        reader.get(f"/uploads/{draft['id']}"),
        reader("PATCH", draft["uploads"][0]["url"], content=b"x", headers={"Upload-Offset": "0"}),
        reader.post(f"/uploads/{draft['id']}/publish"),
    ):
        refused(response, 403, "token.scope")


def test_admin_acts_for_another_owner(world: World) -> None:
    """An admin publishes in another's name; what happened says who did it."""
    patch = world.admin.patch("acme", unique("patch"))
    assert world.admin.publish(patch, world.models.patch)["number"] == 1
    event = next(e for e in reversed(world.acme.get("/events", limit=500).json()["items"]) if e["subject"] == f"{patch}@1")
    assert (event["owner"], event["actor"]) == ("acme", "admin")


def test_tables_with_rows_of_owners_have_an_owner_column(world: World) -> None:
    """Every table of ours with somebody's rows has the column that says whose."""
    with world.service.connection() as connection:
        tables = [
            "families",
            "releases",
            "patches",
            "patch_versions",
            "aliases",
            "ports",
            "events",
            "tokens",
            "idempotency_answers",
        ]
        for table in tables:
            columns = [column["name"] for column in inspect(connection).get_columns(table)]
            assert "owner" in columns, table

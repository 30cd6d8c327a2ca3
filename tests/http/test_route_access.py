"""Who may reach what: every mounted route, found by walking the application, not by a list that somebody keeps."""

import itertools

import pytest
from fastapi import APIRouter

from app.http.access_rules import require_guards
from app.hub.access_rules import RULES as HUB
from tests.support.fixtures import World
from tests.support.registry import Caller, refused
from tests.support.routes import DOORS, body_for, filled_path, mounted_routes

OPEN = ("/healthz", "/readyz", "/docs", "/openapi.json", "/redoc", "/problems", "/problems/{code}")
# Answers this machine, and whoever has the token for it.
LOCAL = ("/metrics",)
NOT_THERE = ("patch.unknown", "port.unknown", "upload.unknown", "job.unknown", "owner.unknown", "hub.repository")
# Asked by POST, and change nothing.
QUESTIONS = (
    "/api/v1/ports/check", "/api/v1/ports/{port}/digest", "/api/models/{owner}/{name}/paths-info/{revision}",
    "/api/validate-yaml",
)  # fmt: skip
# Opened by leave that we signed, and by no token: `tests/hub/test_push.py`.
SIGNED = {name.partition(" ")[2] for name, rule in HUB.items() if rule.scope == "signed"}
HUB_PATHS = {name.partition(" ")[2] for name in HUB}


def test_the_walk_finds_the_routes(world: World) -> None:
    """The walk sees what the schema lists, and more."""
    found = set(mounted_routes(world.service.app))
    schema = world.service.app.openapi()["paths"]
    listed = {(method.upper(), path) for path, methods in schema.items() for method in methods}
    assert listed <= {(method, path.replace(":path}", "}")) for method, path in found}
    assert {path for _, path in found if not path.startswith("/api/v1/")} == {*OPEN, *LOCAL, *HUB_PATHS}
    assert len(found) > 40


@pytest.mark.parametrize(
    "header", [None, "Bearer plt_wrong", "Bearer ", "Basic YTpi", "plt_x", "Bearer x y", "revoked", "unprefixed"]
)
def test_request_without_a_valid_token_is_401(world: World, header: str | None) -> None:
    """Without a valid token every route but health and documentation says 401, HEAD and unlisted ones too."""
    if header == "revoked":
        gone = world.service.caller("acme", "read", "publish", "admin")
        ident = next(t["id"] for t in world.admin.get("/tokens").json()["items"])
        assert world.admin("DELETE", f"/tokens/{ident}").status_code == 200
        header = f"Bearer {gone.token}"
    if header == "unprefixed":
        header = f"Bearer {str(world.admin.token).removeprefix('plt_')}"
    stranger = world.service.client
    checked = 0
    for method, path in mounted_routes(world.service.app):
        if path in (*OPEN, *DOORS):
            continue
        checked += 1
        url = filled_path(path, port=world.port["id"], path="config.json", job="registry:ingest:x-1")
        response = stranger.request(method, url, headers={"Authorization": header} if header else {})
        assert response.status_code == 401, (method, path, response.status_code)
        assert response.headers["WWW-Authenticate"] == "Bearer"
        if method != "HEAD":
            refused(response, 401, "upload.signature" if path in SIGNED else "token.missing")
    assert checked > 35


def test_a_stranger_learns_nothing_from_a_wrong_request(world: World) -> None:
    """What is wrong with a request is said to whoever has a token; nobody else gets that far."""
    stranger = Caller(world.service.client, "plt_wrong")
    for method, path in (("GET", "/patches?limit=none"), ("POST", "/ports/check"), ("GET", "/ports?cursor=x")):
        refused(stranger(method, path), 401, "token.missing")
        assert world.reader(method, path).status_code == 422


def test_a_route_that_asks_nobody_is_not_mounted() -> None:
    """Not refused when somebody asks, but when the application is built."""
    router = APIRouter()

    @router.get("/open")
    def forgotten() -> str:
        return "secret"

    with pytest.raises(RuntimeError, match="/open asks for no token"):
        require_guards(router.routes, {})


def test_health_and_documentation_are_open(world: World) -> None:
    """What anybody may see."""
    for path in OPEN:
        answer = world.service.client.get(path.replace("{code}", "release.unknown"))
        assert answer.status_code == 200, path
    assert world.service.client.get("/readyz").json()["status"] == "ok"


def test_objects_of_another_owner_are_404(world: World) -> None:
    """Every route that names a patch, port, upload or job of another owner says 404, as for one that is not there."""
    app = world.service.app
    patch = world.patch()
    world.acme.publish(patch, world.models.patch)
    draft = world.acme.draft(world.patch(), world.models.patch)
    port = world.acme.port(patch, "v2")["id"]
    job = world.acme.post(f"/ports/{port}/digest").json()["job"]
    values = {"port": port, "upload": draft["id"], "path": "config.json", "job": job, "owner": "acme"}
    nothing = {
        "port": "prt_nope",
        "upload": "ver_nope",
        "path": "config.json",
        "job": "acme:digest:prt_nope-0",
        "owner": "nobody",
    }
    strangers = [world.rival, world.service.caller("rival", "read")]
    checked = 0
    for (method, path), stranger in itertools.product(mounted_routes(app), strangers):
        if not any("{" + name + "}" in path for name in ("owner", "port", "upload", "job")):
            continue
        checked += 1
        headers = {"Upload-Offset": "0"}
        body = body_for(app, method, path)
        theirs, none = (
            stranger(method, filled_path(path, **v), whole=True, headers=headers, **({} if body is None else {"json": body}))
            for v in (values, nothing)
        )
        assert theirs.status_code == none.status_code == 404, (method, path, theirs.text)
        if method != "HEAD":
            assert theirs.json()["code"] == none.json()["code"]
            assert theirs.json()["code"] in NOT_THERE
    assert checked >= 2 * 18
    world.service.run_jobs()


def test_bodies_and_queries_naming_objects_of_another_owner_find_nothing(world: World) -> None:
    """Bodies and queries that name another's patch are answered as if there were none; lists leave it out."""
    rival = world.rival
    for path in ("/ports", "/ports/check"):
        refused(rival.post(path, {"patch": "acme/tone", "release": "v2"}), 404, "patch.unknown")
    refused(rival.get("/ports", patch="acme/tone"), 404, "patch.unknown")
    assert rival.get("/ports").json()["items"] == []
    assert rival.get("/ports", family="llama", release="v2").json()["items"] == []
    assert rival.get("/patches", owner="acme").json()["items"] == []
    assert "acme" not in {p["owner"] for p in rival.get("/patches").json()["items"]}
    assert not [j for j in rival.get("/jobs").json()["items"] if j["id"].startswith("acme:")]
    assert {e["owner"] for e in rival.get("/events", limit=500).json()["items"]} <= {"rival", "registry"}
    # Creating in another's name is refused in the same words whether the name is there or not.
    answers = [
        refused(rival.post("/patches", {"owner": "acme", "name": name, "family": "llama"}), 403, "token.scope")
        for name in ("tone", "not-there")
    ]
    assert answers[0] == answers[1]


def test_digests_of_another_owner_give_no_bytes(world: World) -> None:
    """Knowing the digests of another's patch is not having it: its bytes must be sent to be published."""
    theirs = world.acme.get("/patches/acme/tone/versions/1").json()["files"]
    mine = world.rival.patch("rival", "claimed")
    draft = world.rival.post(f"/patches/{mine}/versions", {"trained_on": "v1", "files": theirs})
    assert draft.json()["state"] == "draft"
    assert {u["received"] for u in draft.json()["uploads"]} == {0}
    refused(world.rival.post(f"/uploads/{draft.json()['id']}/publish"), 409, "upload.incomplete")


def test_reader_changes_nothing(world: World) -> None:
    """A reader changes nothing: no route answers it with a change."""
    app = world.service.app
    reader: Caller = world.reader
    before = world.admin.get("/events", limit=500).json()["cursor"]
    for method, path in mounted_routes(app):
        if path in (*OPEN, *QUESTIONS, *SIGNED) or method in ("GET", "HEAD"):
            continue
        body = body_for(app, method, path)
        if body and "family" in body:
            body["family"] = "llama"
        url = filled_path(path, port=world.port["id"], path="config.json", job=f"acme:digest:{world.port['id']}-0")
        response = reader(method, url, whole=True, headers={"Upload-Offset": "0"}, **({} if body is None else {"json": body}))
        assert response.status_code in (403, 404), (method, path, response.text)
    assert world.admin.get("/events", after=before).json()["items"] == []

"""Roles, expiry, rotation: what tokens may do, for how long, and how one takes the place of another."""

import datetime as dt
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest

from app.db.base import now
from app.domain.errors import DomainError
from app.domain.principal import ROLES, Principal
from app.services.access import tokens
from app.services.patches import patches
from app.services.unit_of_work import UnitOfWork
from tests.support.fixtures import World
from tests.support.registry import Caller, refused, unique


def made(maker: Caller, owner: str, role: str, **wish: Any) -> tuple[str, Caller]:
    """A token of a role: its id, and a caller with it."""
    answer = maker.post("/tokens", {"owner": owner, "role": role, **wish})
    assert answer.status_code == 201, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.json()["id"], Caller(maker.client, answer.json()["token"])


def age(world: World, token: str, seconds: int) -> None:
    """Lets the life of a token begin and end earlier."""
    for column in ("created_at", "expires_at"):
        found = world.service.rows(f"SELECT {column} FROM tokens WHERE id = '{token}'")[0][0]
        if found is not None:
            moment = found if isinstance(found, dt.datetime) else dt.datetime.fromisoformat(found).replace(tzinfo=dt.UTC)
            world.service.execute(
                f"UPDATE tokens SET {column} = :at WHERE id = :token", at=moment - dt.timedelta(seconds=seconds), token=token
            )


@pytest.fixture
def owner() -> str:
    return unique("team")


@pytest.mark.parametrize("role", ROLES)
def test_role_gives_its_scopes(world: World, owner: str, role: str) -> None:
    """A role given is the role shown, here, in the list and to its holder."""
    token, caller = made(world.admin, owner, role, name="ci")
    seen = caller.get("/whoami").json()
    assert (seen["owner"], seen["role"], seen["scopes"], seen["token"], seen["expires_at"]) == (
        owner, role, sorted(ROLES[role]), token, None,
    )  # fmt: skip
    listed = next(t for t in world.admin.get("/tokens").json()["items"] if t["id"] == token)
    assert (listed["role"], listed["scopes"], listed["name"], "token" in listed) == (role, list(ROLES[role]), "ci", False)


@pytest.mark.parametrize("wish", [{}, {"role": "reader", "scopes": ["read"]}, {"role": "reader", "expires_in": 59}])
def test_invalid_token_request_is_refused(world: World, owner: str, wish: dict[str, Any]) -> None:
    refused(world.admin.post("/tokens", {"owner": owner, **wish}), 422, "request.invalid")


def test_unknown_role_is_refused(world: World, owner: str) -> None:
    refused(world.admin.post("/tokens", {"owner": owner, "role": "root"}), 422, "token.role")


def test_operator_manages_tokens_of_its_owner_only(world: World, owner: str) -> None:
    """It makes, lists, rotates and revokes the tokens of its owner, none of an admin or of anybody else."""
    _, operator = made(world.admin, owner, "operator")
    reader, caller = made(operator, owner, "reader")
    assert {t["owner"] for t in operator.get("/tokens").json()["items"]} == {owner}
    refused(operator.post("/tokens", {"owner": owner, "role": "admin"}), 403, "token.scope")
    refused(operator.post("/tokens", {"owner": unique("other"), "role": "reader"}), 403, "token.scope")
    foreign, _ = made(world.admin, unique("other"), "reader")
    admin, _ = made(world.admin, owner, "admin")
    for method, path in (("DELETE", "/tokens/{}"), ("POST", "/tokens/{}/rotate")):
        body = {"json": {}} if method == "POST" else {}
        refused(operator(method, path.format(foreign), **body), 404, "token.unknown")
        refused(operator(method, path.format("tok_nope"), **body), 404, "token.unknown")
        refused(operator(method, path.format(admin), **body), 403, "token.scope")
    assert operator("DELETE", f"/tokens/{reader}").status_code == 200
    refused(caller.get("/whoami"), 401, "token.missing")


@pytest.mark.parametrize("role", ["reader", "publisher"])
def test_reader_and_publisher_manage_their_own_token_only(world: World, owner: str, role: str) -> None:
    """Nobody without scope operate sees tokens, or learns which there are; everybody may end its own."""
    token, caller = made(world.admin, owner, role)
    sibling, _ = made(world.admin, owner, "reader")
    for answer in (
        caller.get("/tokens"),
        caller.post("/tokens", {"owner": owner, "role": "reader"}),
        *(caller("DELETE", f"/tokens/{other}") for other in (sibling, "tok_nope")),
        *(caller.post(f"/tokens/{other}/rotate", {}) for other in (sibling, "tok_nope")),
    ):
        refused(answer, 403, "token.scope")
    assert caller("DELETE", "/tokens/self").json()["id"] == token
    refused(caller.get("/whoami"), 401, "token.missing")


def test_expired_token_is_refused(world: World, owner: str) -> None:
    """Until then it is good; then every answer, also one that is under way, ends, and says why."""
    token, caller = made(world.admin, owner, "publisher", expires_in=3600)
    end = dt.datetime.fromisoformat(caller.get("/whoami").json()["expires_at"])
    assert dt.timedelta(seconds=3500) < end - now() <= dt.timedelta(seconds=3600)
    age(world, token, 3601)
    answer = caller.get("/whoami")
    assert "expired at" in refused(answer, 401, "token.expired")["detail"]
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    refused(world.admin.post(f"/tokens/{token}/rotate", {}), 409, "token.over")
    listed = next(t for t in world.admin.get("/tokens").json()["items"] if t["id"] == token)
    assert listed["revoked_at"] is None


def test_rotation_without_a_grace_ends_the_old_token(world: World, owner: str) -> None:
    """The new one is like the old one, its end too, and the old one is gone."""
    token, caller = made(world.admin, owner, "publisher", expires_in=3600, name="ci")
    age(world, token, 1800)
    answer = caller.post("/tokens/self/rotate", {})
    assert answer.status_code == 201, answer.text
    new, again = answer.json(), Caller(caller.client, answer.json()["token"])
    assert (new["owner"], new["role"], new["name"]) == (owner, "publisher", "ci")
    left = dt.datetime.fromisoformat(new["expires_at"]) - now()
    assert dt.timedelta(seconds=1700) < left <= dt.timedelta(seconds=1800)
    refused(caller.get("/whoami"), 401, "token.missing")
    assert again.get("/whoami").json()["token"] == new["id"] != token
    kinds = {e["kind"]: e for e in world.admin.get("/events", limit=500).json()["items"] if e["subject"] == token}
    assert kinds["token.rotated"]["data"] == {"by": new["id"]}
    refused(world.admin.post(f"/tokens/{token}/rotate", {}), 409, "token.over")


def test_rotation_with_a_grace_keeps_both_tokens_for_a_while(world: World, owner: str) -> None:
    """Both are good while holders change over; then only the new one. A grace never makes a token live longer."""
    token, caller = made(world.admin, owner, "reader")
    new = Caller(caller.client, caller.post("/tokens/self/rotate", {"grace": 600}).json()["token"])
    assert caller.get("/whoami").status_code == new.get("/whoami").status_code == 200
    age(world, token, 601)
    refused(caller.get("/whoami"), 401, "token.expired")
    assert new.get("/whoami").status_code == 200
    short, caller = made(world.admin, owner, "reader", expires_in=300)
    before = caller.get("/whoami").json()["expires_at"]
    assert caller.post(f"/tokens/{short}/rotate", {"grace": 600}).status_code == 201
    assert caller.get("/whoami").json()["expires_at"] == before


def end_of(answer: Any) -> dt.datetime | None:
    assert answer.status_code == 201, answer.text
    end = answer.json()["expires_at"]
    return dt.datetime.fromisoformat(end) if end else None


@pytest.mark.parametrize("role", ["operator", "admin"])
def test_token_made_by_another_expires_with_it(world: World, owner: str, role: str) -> None:
    """Without a wish, at its own end; a longer one is refused; what that makes in its turn is bound alike."""
    token, maker = made(world.admin, owner, role, expires_in=3600)
    mine = dt.datetime.fromisoformat(maker.get("/whoami").json()["expires_at"])
    answer = maker.post("/tokens", {"owner": owner, "role": "operator"})
    assert (end_of(answer), answer.json()["made_by"]) == (mine, token)
    child = Caller(maker.client, answer.json()["token"])
    for caller in (maker, child):
        assert end_of(caller.post("/tokens", {"owner": owner, "role": "reader"})) == mine
        assert (end_of(caller.post("/tokens", {"owner": owner, "role": "reader", "expires_in": 60})) or mine) < mine
        problem = refused(caller.post("/tokens", {"owner": owner, "role": "reader", "expires_in": 7200}), 403, "token.outlives")
        assert dt.datetime.fromisoformat(problem["data"]["at"]) <= mine
    assert end_of(world.admin.post("/tokens", {"owner": owner, "role": "reader"})) is None


@pytest.mark.parametrize("grace", [0, 600])
def test_token_that_rotates_itself_keeps_its_expiry(world: World, owner: str, grace: int) -> None:
    """However often: it changes its secret, it does not renew itself."""
    _, caller = made(world.admin, owner, "publisher", expires_in=3600)
    end = dt.datetime.fromisoformat(caller.get("/whoami").json()["expires_at"])
    for _ in range(3):
        answer = caller.post("/tokens/self/rotate", {"grace": grace})
        assert end_of(answer) == end
        caller = Caller(caller.client, answer.json()["token"])


def test_token_is_renewed_by_one_that_lasts_longer(world: World, owner: str) -> None:
    """By its whole lifetime, or as far as the other lasts; what lasts longer than the other is not touched by it."""
    token, _ = made(world.admin, owner, "reader", expires_in=3600)
    age(world, token, 1800)
    renewed = world.admin.post(f"/tokens/{token}/rotate", {})
    assert (end_of(renewed) or now()) - now() > dt.timedelta(seconds=3500)
    _, operator = made(world.admin, owner, "operator", expires_in=7200)
    longest = dt.datetime.fromisoformat(operator.get("/whoami").json()["expires_at"])
    short, _ = made(world.admin, owner, "reader", expires_in=14_400)
    age(world, short, 12_000)
    assert end_of(operator.post(f"/tokens/{short}/rotate", {})) == longest
    for life in ({}, {"expires_in": 14_400}):
        lasting, holder = made(world.admin, owner, "reader", **life)
        refused(operator.post(f"/tokens/{lasting}/rotate", {"grace": 600}), 403, "token.outlives")
        assert holder.get("/whoami").status_code == 200


def test_what_a_token_made_outlives_its_revocation_unless_asked_otherwise(world: World, owner: str) -> None:
    """A token that is replaced does not take those of others with it; one that was stolen does."""
    maker, operator = made(world.admin, owner, "operator")
    child_id, child = made(operator, owner, "operator")
    _, grandchild = made(child, owner, "reader")
    successor = operator.post("/tokens/self/rotate", {}).json()
    assert successor["made_by"] == maker
    assert child.get("/whoami").status_code == grandchild.get("/whoami").status_code == 200
    assert world.admin("DELETE", f"/tokens/{maker}").status_code == 200
    assert child.get("/whoami").status_code == 200
    listed = {row["id"]: row["made_by"] for row in world.admin.get("/tokens", limit=500).json()["items"]}
    assert listed[child_id] == maker
    answer = world.admin("DELETE", f"/tokens/{maker}", params={"with_made": True})
    assert answer.json()["id"] == maker
    for caller in (child, grandchild, Caller(operator.client, successor["token"])):
        refused(caller.get("/whoami"), 401, "token.missing")


def principal_of(world: World, caller: Caller) -> Principal:
    with world.service.runtime.read() as uow:
        return tokens.authenticate(uow, str(caller.token))


def make_token(uow: UnitOfWork, principal: Principal, act: str, owner: str, other: str) -> str:
    """Makes a token anew, or by rotating another; returns its secret."""
    if act == "create":
        return tokens.create(uow, principal, owner, ["read"])[1]
    return tokens.rotate(uow, principal, other, dt.timedelta(0))[1]


@pytest.mark.parametrize("act", ["create", "rotate"])
def test_a_request_that_began_before_its_token_was_revoked_makes_no_token(world: World, owner: str, act: str) -> None:
    """A request is authenticated before its body is read: one that is sent slowly would make a token after the revocation."""
    maker, operator = made(world.admin, owner, "operator")
    other, _ = made(world.admin, owner, "reader")
    principal = principal_of(world, operator)
    assert world.admin("DELETE", f"/tokens/{maker}", params={"with_made": True}).status_code == 200
    with world.service.runtime.write() as uow, pytest.raises(DomainError) as refusal:
        make_token(uow, principal, act, owner, other)
    assert refusal.value.code == "token.missing"
    assert [row for row in world.admin.get("/tokens", limit=500).json()["items"] if row["made_by"] == maker] == []


def test_request_that_began_before_its_token_was_revoked_writes_nothing(world: World, owner: str) -> None:
    """Its transaction is rolled back when it would commit."""
    token, caller = made(world.admin, owner, "publisher")
    principal, patch = principal_of(world, caller), unique("patch")
    assert world.admin("DELETE", f"/tokens/{token}").status_code == 200
    with pytest.raises(DomainError) as refusal, world.service.runtime.write() as uow:
        patches.create(uow, principal, owner, patch, "llama")
    assert refusal.value.code == "token.missing"
    refused(world.admin.get(f"/patches/{owner}/{patch}"), 404, "patch.unknown")


@pytest.mark.parametrize("act", ["create", "rotate"])
def test_a_revocation_with_made_waits_for_what_is_being_made(world: World, owner: str, act: str) -> None:
    maker, operator = made(world.admin, owner, "operator")
    other, _ = made(world.admin, owner, "reader")
    principal, started = principal_of(world, operator), threading.Event()

    def revoke() -> int:
        started.set()
        return world.admin("DELETE", f"/tokens/{maker}", params={"with_made": True}).status_code

    with ThreadPoolExecutor(1) as pool:
        with world.service.runtime.write() as uow:
            secret = make_token(uow, principal, act, owner, other)
            uow.session.flush()
            revoked = pool.submit(revoke)
            assert started.wait(30)
            wait([revoked], timeout=1)  # it must not be done before the transaction ends
        assert revoked.result(30) == 200
    refused(Caller(world.admin.client, secret).get("/whoami"), 401, "token.missing")


def test_an_operator_does_not_end_what_it_may_not_manage(world: World, owner: str) -> None:
    """Refused as a whole: nothing that was asked for is left out without a word."""
    admin_id, admin = made(world.admin, owner, "admin")
    _, operator = made(world.admin, owner, "operator")
    reader_id, reader = made(admin, owner, "reader")
    inner = world.admin.post(f"/tokens/{reader_id}/rotate", {}).json()
    refused(operator("DELETE", f"/tokens/{admin_id}", params={"with_made": True}), 403, "token.scope")
    assert Caller(reader.client, inner["token"]).get("/whoami").status_code == 200

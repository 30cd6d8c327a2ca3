"""Quotas: asked in the transaction that adds, also by many at once; repeats are free, and nothing is half made."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.domain.principal import ROLES
from tests.support.fixtures import Models
from tests.support.http_server import serving
from tests.support.registry import Caller, Service, refused, unique
from tests.support.service_process import invoke
from tests.support.uploads import announce, announced

CLIENTS = 8


def furnished(service: Service, models: Models) -> Service:
    service.admin.family("llama")
    service.release("llama", "v1", models.v1)
    return service


@pytest.fixture(scope="module")
def service(registries: Callable[..., Service], models: Models) -> Iterator[Service]:
    """A registry in which every owner may have two patches, unless an admin says otherwise."""
    with registries(quota_patches=2).running() as service:
        yield furnished(service, models)


def operator(service: Service) -> tuple[str, Caller]:
    """A new owner, and one who runs its affairs."""
    owner = unique("owner")
    return owner, service.caller(owner, *ROLES["operator"])


def allow(service: Service, owner: str, **limits: int | None) -> Any:
    answer = service.admin("PUT", f"/owners/{owner}/quota", json=limits)
    assert answer.status_code == 200, answer.text
    return answer.json()


def used(service: Service, owner: str, kind: str) -> int:
    return int(service.admin.get(f"/owners/{owner}/usage").json()[kind]["used"])


def test_patch_beyond_its_quota_is_refused(service: Service) -> None:
    """The third is refused, with what is used and how much more is asked for; what is there is there again."""
    owner, caller = operator(service)
    bodies = [{"owner": owner, "name": f"p{n}", "family": "llama"} for n in range(3)]
    assert [caller.post("/patches", body).status_code for body in bodies[:2]] == [201, 201]
    problem = refused(caller.post("/patches", bodies[2]), 403, "quota.exceeded")
    assert problem["data"] == {"owner": owner, "kind": "patches", "what": "patches", "used": 2, "limit": 2, "asked": 1}
    assert f"{owner} has 2 of 2 patches" in problem["detail"]
    assert caller.post("/patches", bodies[0]).status_code == 200
    assert caller.get(f"/patches/{owner}/p2").status_code == 404
    allow(service, owner, patches=3)
    assert caller.post("/patches", bodies[2]).status_code == 201
    collectors = service.app.state.telemetry.collectors
    assert collectors.get_sample_value("portllm_refused_total", {"reason": "quota.exceeded"}) >= 1


def test_bytes_drafts_and_versions_beyond_their_quotas_are_refused(service: Service, another: Callable[[], Path]) -> None:
    """Bytes count from the draft on and after a yank; a refused draft leaves no row."""
    owner, caller = operator(service)
    patch, first, second = caller.patch(owner, "p"), another(), another()
    size = sum(file.stat().st_size for file in first.iterdir())
    allow(service, owner, bytes=2 * size - 1, drafts=1)
    draft = caller.uploaded(patch, first)
    body = {"trained_on": "v1", "files": announced(second)}
    refused(caller.post(f"/patches/{patch}/versions", body), 403, "quota.exceeded")
    assert (used(service, owner, "drafts"), used(service, owner, "bytes")) == (1, draft["total_bytes"])
    assert caller.post(f"/uploads/{draft['id']}/publish").status_code == 200
    assert caller.post(f"/patches/{patch}/versions/1/yank", {"reason": "x"}).status_code == 200
    assert (used(service, owner, "drafts"), used(service, owner, "bytes")) == (0, draft["total_bytes"])
    problem = refused(caller.post(f"/patches/{patch}/versions", body), 403, "quota.exceeded")
    assert problem["data"]["kind"] == "bytes"
    allow(service, owner, bytes=0, versions=2)
    late = caller.uploaded(patch, second)
    allow(service, owner, versions=1)  # lowered while the draft was open
    problem = refused(caller.post(f"/uploads/{late['id']}/publish"), 403, "quota.exceeded")
    assert problem["data"]["kind"] == "versions"
    assert caller.get(f"/uploads/{late['id']}").status_code == 200, "the draft is there, to be published when there is room"
    allow(service, owner, versions=None)
    published = caller.post(f"/uploads/{late['id']}/publish").json()
    assert published["number"] == 2
    allow(service, owner, versions=1, drafts=1, bytes=1)
    again = caller.post(f"/patches/{patch}/versions", {"trained_on": "v1", "files": announced(second)})
    assert (again.status_code, again.json()["number"]) == (200, 2), "bytes that are published cost nothing"


def test_ports_and_tokens_beyond_their_quotas_are_refused(service: Service, another: Callable[[], Path]) -> None:
    """Retired ports and revoked tokens make room; a rotation without a grace needs none."""
    owner, caller = operator(service)
    patch = caller.patch(owner, "p")
    caller.publish(patch, another())
    allow(service, owner, ports=1, tokens=2)
    port = caller.port(patch, "v1")
    assert caller.port(patch, "v1")["id"] == port["id"]
    wish = {"patch": patch, "release": "v1", "recipe": {"dtype": "bfloat16"}}
    refused(caller.post("/ports", wish), 403, "quota.exceeded")
    assert caller.post(f"/ports/{port['id']}/retire").status_code == 200
    assert caller.post("/ports", wish).status_code == 201
    made = caller.post("/tokens", {"owner": owner, "scopes": ["read"]})
    assert made.status_code == 201
    refused(caller.post("/tokens", {"owner": owner, "scopes": ["read"]}), 403, "quota.exceeded")
    refused(caller.post(f"/tokens/{made.json()['id']}/rotate", {"grace": 60}), 403, "quota.exceeded")
    turned = caller.post(f"/tokens/{made.json()['id']}/rotate", {})
    assert turned.status_code == 201
    assert caller("DELETE", f"/tokens/{turned.json()['id']}").status_code == 200
    assert caller.post("/tokens", {"owner": owner, "scopes": ["read"]}).status_code == 201


def test_quotas_are_seen_by_their_owner_and_set_by_admins(service: Service) -> None:
    """Its own for a reader, all for an admin, nobody's for a stranger; only an admin sets them, and the audit trail says so."""
    owner, caller = operator(service)
    reader, stranger = service.caller(owner, "read"), service.caller(unique("stranger"))
    shown = reader.get(f"/owners/{owner}/usage")
    assert shown.json()["patches"] == {"used": 0, "limit": 2, "own": False}
    assert shown.json()["drafts"]["limit"] == 1000
    assert shown.json()["tokens"] == {"used": 2, "limit": None, "own": False}
    refused(stranger.get(f"/owners/{owner}/usage"), 404, "owner.unknown")
    refused(stranger("PUT", f"/owners/{owner}/quota", json={}), 404, "owner.unknown")
    refused(caller("PUT", f"/owners/{owner}/quota", json={"patches": 9}), 403, "token.scope")
    refused(service.admin("PUT", "/owners/NO/quota", json={}), 422, "request.name")
    refused(service.admin("PUT", f"/owners/{owner}/quota", json={"patches": -1}), 422, "request.invalid")
    assert allow(service, owner, patches=7, bytes=10)["patches"] == {"used": 0, "limit": 7, "own": True}
    after = allow(service, owner, bytes=None)
    assert (after["patches"]["limit"], after["bytes"]["limit"]) == (7, None)
    assert allow(service, owner, patches=0)["patches"] == {"used": 0, "limit": None, "own": True}
    told = [e for e in caller.get("/events", limit=500).json()["items"] if e["kind"] == "quota.changed"]
    assert [(e["actor"], e["subject"], e["data"]) for e in told] == [
        ("admin", owner, {"patches": 7, "bytes": 10}), ("admin", owner, {"bytes": None}), ("admin", owner, {"patches": 0}),
    ]  # fmt: skip


def test_change_of_a_quota_with_an_old_etag_is_refused(service: Service) -> None:
    """Whoever read another state is told."""
    path = f"/owners/{unique('owner')}"
    tag = service.admin.get(f"{path}/usage").headers["ETag"]
    assert tag == '"0"'
    first = service.admin("PUT", f"{path}/quota", json={"ports": 1}, headers={"If-Match": tag})
    assert (first.status_code, first.headers["ETag"]) == (200, '"1"')
    refused(service.admin("PUT", f"{path}/quota", json={"ports": 2}, headers={"If-Match": tag}), 412, "request.changed")


def test_concurrent_requests_stay_within_the_quota(
    registries: Callable[..., Service], models: Models, migrated: Callable[[], str]
) -> None:
    """On PostgreSQL, where they run side by side: exactly as many as there is room for, of patches and of bytes."""
    with registries(quota_patches=3, database_url=migrated()).running() as service:
        furnished(service, models)
        acme = service.caller("acme")
        bodies = [{"owner": "acme", "name": f"p{n}", "family": "llama"} for n in range(CLIENTS)]
        with ThreadPoolExecutor(CLIENTS) as pool:
            made = list(pool.map(lambda body: acme.post("/patches", body).status_code, bodies))
            assert sorted(made) == [201] * 3 + [403] * (CLIENTS - 3)
            # The same name by many: one is made, the others repeat, though there was room for one.
            allow(service, "acme", patches=4)
            same = {"owner": "acme", "name": "same", "family": "llama"}
            made = list(pool.map(lambda _: acme.post("/patches", same).status_code, range(CLIENTS)))
            assert sorted(made) == [200] * (CLIENTS - 1) + [201]
            files = [
                [announce("adapter_config.json", b"{}"), announce("adapter_model.safetensors", bytes([n]) * 1000)]
                for n in range(CLIENTS)
            ]
            allow(service, "acme", bytes=3500)
            drafts = [{"trained_on": "v1", "files": announcement} for announcement in files]
            made = list(pool.map(lambda body: acme.post("/patches/acme/same/versions", body).status_code, drafts))
        assert sorted(made) == [201] * 3 + [403] * (CLIENTS - 3)
        assert used(service, "acme", "bytes") == 3 * 1002


def test_quota_commands_show_and_set(service: Service) -> None:
    """Shows and sets, for people and for programs."""
    owner, caller = operator(service)
    with serving(service) as url:
        admin = {"PORTLLM_URL": url, "PORTLLM_TOKEN": str(service.admin.token)}
        own = {"PORTLLM_URL": url, "PORTLLM_TOKEN": str(caller.token)}
        done = invoke("quota", "set", owner, "--bytes", "50GB", "--patches", "100", "--ports", "0", "--json", **admin)
        row = json.loads(done.stdout)
        assert (row["bytes"]["limit"], row["patches"]["limit"], row["ports"]["limit"]) == (50 * 10**9, 100, None)
        shown = invoke("quota", "show", **own)
        assert shown.exit_code == 0, shown.output
        assert owner in shown.stdout
        assert "50,000,000,000" in shown.stdout
        back = invoke("quota", "set", owner, "--bytes", "default", "--drafts", "5", **admin)
        assert "50,000,000,000" not in back.stdout
        assert json.loads(invoke("quota", "show", owner, "--json", **own).stdout)["drafts"] == {
            "used": 0,
            "limit": 5,
            "own": True,
        }
        other = invoke("quota", "show", "stranger", **own)
        assert (other.exit_code, "[owner.unknown]" in other.stderr) == (1, True)
        for wrong in (["--bytes", "50 apples"], ["--patches", "5GB"], ["--patches", "-1"], []):
            ended = invoke("quota", "set", owner, *wrong, **admin)
            assert (ended.exit_code, "[client.quota]" in ended.stderr) == (2, True), ended.output

"""What checks of ports cost: nothing when they are repeated, places that owners share, and no connection while bytes are read."""

import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from app.core.adapter import CONFIG_FILE
from tests.support.connections import watched
from tests.support.fixtures import Models
from tests.support.registry import Caller, Service, refused


@pytest.fixture
def service(fresh: Callable[..., Service], models: Models) -> Service:
    """Family llama with v1, v2 and wide (other shapes); acme/tone and rival/tone; two checks at once, one of each owner."""
    made = fresh(checks=2)
    made.admin.family("llama")
    for name, directory in (("v1", models.v1), ("v2", models.v2), ("wide", models.wide)):
        assert made.release("llama", name, directory)["state"] == "ready"
    for owner in ("acme", "rival"):
        caller = made.caller(owner)
        caller.publish(caller.patch(owner, "tone"), models.patch)
    return made


def check(caller: Caller, release: str, **wish: Any) -> dict[str, Any]:
    answer = caller.post("/ports/check", {"patch": "acme/tone", "release": release} | wish)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.parametrize(
    ("release", "state", "force"), [("wide", "refused", None), ("v2", "ready", None), ("v1", "ready", "because")]
)
def test_a_repeated_check_opens_no_patch_and_gives_the_same_answer(
    service: Service, release: str, state: str, force: str | None
) -> None:
    """Refusals cost as much as anything else to find out, and are remembered as well."""
    acme = service.caller("acme")
    with watched(service.runtime) as blobs:
        first = check(acme, release, force=force)
        opened = sum(operation == "open" for operation, _ in blobs.seen)
        assert opened > 1
        again = [check(acme, release, force=force) for _ in range(3)]
        # One look at a byte of the patch, because what is remembered does not say that it is still there; none for a refusal.
        assert sum(operation == "open" for operation, _ in blobs.seen) <= opened + (state == "ready")
    ported = acme.post("/ports", {"patch": "acme/tone", "release": release, "force": force}).json()
    assert first["state"] == ported["state"] == state
    assert again == [first] * 3
    assert ported["findings"] == first["findings"]


def test_checks_and_ports_hold_no_connection_while_bytes_are_read(service: Service) -> None:
    acme = service.caller("acme")
    with watched(service.runtime) as blobs:
        check(acme, "v2")
        acme.port("acme/tone", "v1")
        assert {"open", "read"} <= {operation for operation, _ in blobs.seen}
        assert blobs.held() == []


def test_a_remembered_check_notices_that_a_release_was_changed_since(fresh: Callable[..., Service], models: Models) -> None:
    service = fresh()
    v1 = shutil.copytree(models.v1, service.place / "v1")
    service.admin.family("llama")
    assert service.release("llama", "v1", v1)["state"] == "ready"
    acme = service.caller("acme")
    acme.publish(acme.patch("acme", "tone"), models.patch)
    assert check(acme, "v1")["state"] == "ready"
    for path in v1.glob("*.safetensors"):
        path.write_bytes(path.read_bytes() + b"\0")
    refused(acme.post("/ports/check", {"patch": "acme/tone", "release": "v1"}), 409, "checkpoint.changed")


def test_an_owner_whose_checks_are_under_way_is_refused_and_others_are_not(
    service: Service, models: Models, tmp_path: Path
) -> None:
    """Of two places an owner has one: a check, a port and a publish take it; what is remembered needs none."""
    acme, rival = service.caller("acme"), service.caller("rival")
    known = check(acme, "v1")
    other = shutil.copytree(models.patch, tmp_path / "other")
    (other / "README.md").write_text("another")
    draft = acme.uploaded("acme/tone", other)
    wish = {"patch": "acme/tone", "release": "v2"}
    with service.runtime.tools.checks.hold("acme"):
        for path, body in (("/ports/check", wish), ("/ports", wish), (f"/uploads/{draft['id']}/publish", None)):
            answer = acme.post(path, body)
            problem = refused(answer, 503, "server.busy")
            assert (problem["data"]["limit"], problem["data"]["owner"]) == (1, "acme")
            assert int(answer.headers["Retry-After"]) > 0
        assert check(acme, "v1") == known
        assert rival.post("/ports/check", {"patch": "rival/tone", "release": "v2"}).status_code == 200
        with service.runtime.tools.checks.hold("third"):  # all places
            answer = rival.post("/ports/check", {"patch": "rival/tone", "release": "v1"})
            assert "owner" not in refused(answer, 503, "server.busy")["data"]
    refused_reads = [
        line for line in service.app.state.telemetry.exposition().decode().splitlines() if "_reads_refused_total 0.0" in line
    ]
    assert len(refused_reads) == 2, "checks are no reads"
    assert acme.post(f"/uploads/{draft['id']}/publish").json()["number"] == 2
    assert acme.post("/ports", wish).status_code == 201


def test_equal_checks_at_the_same_time_are_made_once(service: Service) -> None:
    """All of them get the answer, though the owner has one place."""
    acme, barrier = service.caller("acme"), threading.Barrier(6)

    def ask(_: int) -> dict[str, Any]:
        barrier.wait(30)
        return check(acme, "v2")

    with watched(service.runtime), ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(6)))
    assert answers == answers[:1] * 6


def test_a_check_of_a_purged_version_is_forgotten(service: Service) -> None:
    acme, operator = service.caller("acme"), service.caller("acme", "read", "publish", "operate")
    check(acme, "wide")
    version = service.runtime.tools.artifacts.held()
    assert operator.post("/patches/acme/tone/versions/1/purge", {"reason": "erasure"}).status_code in (200, 202)
    assert version - service.runtime.tools.artifacts.held()
    refused(acme.post("/ports/check", {"patch": "acme/tone", "release": "wide", "version": 1}), 410, "version.purged")


def test_places_of_a_check_come_back_when_it_fails(service: Service, models: Models, tmp_path: Path) -> None:
    acme = service.caller("acme")
    broken = shutil.copytree(models.patch, tmp_path / "broken")
    config = json.loads((broken / CONFIG_FILE).read_text())
    (broken / CONFIG_FILE).write_text(json.dumps(config | {"r": 3}))
    for number in range(3):
        draft = acme.uploaded(acme.patch("acme", f"broken{number}"), broken)
        refused(acme.post(f"/uploads/{draft['id']}/publish"), 422, "adapter.rank")
    with ExitStack() as places:
        for owner in ("acme", "rival"):
            places.enter_context(service.runtime.tools.checks.hold(owner))

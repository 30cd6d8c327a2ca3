"""Ports: a patch version carried to a release, with findings; made once, approved, retired."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.fixtures import World
from tests.support.models import Shelf, continue_base, make_tokenizer
from tests.support.registry import refused, unique


def codes(port: dict[str, Any]) -> dict[str, str]:
    """Severity by code of a port's findings."""
    return {f["code"]: f["severity"] for f in port["findings"]}


@pytest.fixture
def patch(world: World, another: Callable[[], Path]) -> str:
    """A patch of acme's with one version, trained on v1."""
    name = world.patch()
    world.acme.publish(name, another())
    return name


def test_check_stores_no_port(world: World, patch: str) -> None:
    """A dry run says what a port would be, word for word, and stores none."""
    verdict = world.reader.post("/ports/check", {"patch": patch, "release": "v2"})
    assert verdict.status_code == 200
    assert world.acme.get("/ports", patch=patch).json()["items"] == []
    port = world.acme.port(patch, "v2")
    assert {key: port[key] for key in verdict.json() if key in port} == {k: v for k, v in verdict.json().items() if k in port}
    assert verdict.json()["tensors_changed"] == 14
    assert verdict.json()["state"] == "ready"


def test_port_to_a_continuation_is_ready_and_repeated_requests_return_it(world: World, patch: str) -> None:
    """A port to a continuation is ready at once; the same wish, however it names the version, returns the same port."""
    made = world.acme.post("/ports", {"patch": patch, "release": "v2"})
    assert made.status_code == 201
    port = made.json()
    assert made.headers["Location"] == f"/api/v1/ports/{port['id']}"
    assert (port["state"], port["version"], port["trained_on"], port["forced"]) == ("ready", 1, "v1", False)
    assert port["recipe"] == {"strategy": "add", "dtype": None, "tokenizer": "release"}
    assert codes(port) == {"lineage.measured": "info"}
    world.acme("PUT", f"/patches/{patch}/aliases/prod", json={"version": "1"})
    for version in (None, 1, "1", "main", "prod"):
        again = world.acme.post("/ports", {"patch": patch, "release": "v2", "version": version, "family": "llama"})
        assert (again.status_code, again.json()) == (200, port)
    assert world.acme.get("/ports", patch=patch).json()["items"] == [port]
    read = world.reader.get(f"/ports/{port['id']}")
    assert read.json() == port
    assert read.headers["ETag"] == '"1"'


def test_concurrent_equal_requests_return_one_port(world: World, patch: str) -> None:
    """Several clients that wish the same at once are told of one port."""
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: world.acme.post("/ports", {"patch": patch, "release": "v2"}), range(4)))
    assert sorted(a.status_code for a in answers) == [200, 200, 200, 201]
    assert len({a.json()["id"] for a in answers}) == 1
    assert len(world.acme.get("/ports", patch=patch).json()["items"]) == 1


def test_port_with_another_recipe_is_another_port(world: World, patch: str) -> None:
    """Each recipe has a fingerprint, and a port, of its own; a recipe that cannot be is refused."""
    ports = [world.acme.port(patch, "v2", recipe={"dtype": dtype}) for dtype in (None, "float32", "float16")]
    assert len({p["id"] for p in ports}) == len({p["fingerprint"] for p in ports}) == 3
    for recipe in ({"dtype": "int8"}, {"strategy": "ties"}, {"tokenizer": "mine"}):
        refused(world.acme.post("/ports", {"patch": patch, "release": "v2", "recipe": recipe}), 422, "recipe.invalid")
    refused(world.acme.post("/ports", {"patch": patch, "release": "v2", "recipe": {"dtyp": "x"}}), 422, "request.invalid")


def test_port_of_a_version_by_number_alias_or_newest(world: World, patch: str, another: Callable[[], Path]) -> None:
    """A version is asked for by number, by alias, or as the newest; unknown ones say so."""
    world.acme.publish(patch, another())
    world.acme("PUT", f"/patches/{patch}/aliases/prod", json={"version": "1"})
    assert [world.acme.port(patch, "v2", version=v)["version"] for v in (None, "main", "prod", 1, "2")] == [2, 2, 1, 1, 2]
    refused(world.acme.post("/ports", {"patch": patch, "release": "v2", "version": 3}), 404, "version.unknown")
    refused(world.acme.post("/ports", {"patch": patch, "release": "v2", "version": "stage"}), 404, "alias.unknown")
    refused(world.acme.get("/ports", patch=patch, version="stage"), 404, "alias.unknown")


def test_port_with_unknown_names_is_refused(world: World, patch: str) -> None:
    """Each mistake in a wish is told by its own code."""
    other = world.admin.family(unique("family"))
    problem = refused(world.acme.post("/ports", {"patch": patch, "release": "v2", "family": other}), 409, "patch.other_family")
    assert problem["data"] == {"patch": patch, "family": "llama", "asked": other}
    refused(world.acme.post("/ports", {"patch": patch, "release": "v9"}), 404, "release.unknown")
    refused(world.acme.post("/ports", {"patch": "tone", "release": "v2"}), 422, "request.invalid")
    refused(world.acme.get("/ports/prt_nope"), 404, "port.unknown")
    refused(world.acme.get("/ports", release="v2"), 422, "request.invalid")
    refused(world.acme.get("/ports", release="v2", family="nope"), 404, "family.unknown")
    assert world.acme.get("/ports", release="v2", family="llama").status_code == 200


def test_port_to_a_release_of_other_shapes_is_refused_with_findings(world: World, patch: str) -> None:
    """A release of other shapes: the port is stored as refused, with the reason, and has no merged model."""
    port = world.acme.port(patch, "wide")
    assert port["state"] == "refused"
    assert codes(port)["port.shape"] == "refuse"
    assert port["ready_at"] is None
    event = world.acme.get("/events", limit=500).json()["items"][-1]
    assert (event["kind"], event["subject"]) == ("port.refused", port["id"])
    for path in ("", "/config.json"):
        problem = refused(world.acme.get(f"/ports/{port['id']}/files{path}"), 409, "port.not_ready")
        assert problem["data"]["state"] == "refused"
    refused(world.acme.post(f"/ports/{port['id']}/approve", {"reason": "please"}), 409, "state.move")
    refused(world.acme.post(f"/ports/{port['id']}/digest"), 409, "port.not_ready")
    # What does not fit cannot be forced.
    assert world.acme.port(patch, "wide", force="it is fine")["state"] == "refused"


def test_port_of_unknown_origin_is_held_until_approved(world: World, another: Callable[[], Path]) -> None:
    """Trained on nobody knows what: held, unreadable, until somebody approves it with a reason, which is recorded."""
    patch = world.patch()
    assert world.acme.publish(patch, another(), "unknown")["trained_on"] == "unknown"
    port = world.acme.port(patch, "v2")
    assert port["state"] == "held"
    assert codes(port) == {"lineage.unknown": "warn"}
    event = world.acme.get("/events", limit=500).json()["items"][-1]
    assert (event["kind"], event["subject"]) == ("port.held", port["id"])
    refused(world.acme.get(f"/ports/{port['id']}/files/config.json"), 409, "port.not_ready")
    refused(world.acme.post(f"/ports/{port['id']}/approve", {"reason": ""}), 422, "request.invalid")
    refused(world.acme.post(f"/ports/{port['id']}/approve", {"reason": "   "}), 422, "request.invalid")
    refused(world.acme.post(f"/ports/{port['id']}/approve"), 422, "request.invalid")
    approved = world.acme.post(f"/ports/{port['id']}/approve", {"reason": "trained on v1, ask Ann"})
    assert approved.status_code == 200
    assert (approved.json()["state"], approved.json()["reason"]) == ("ready", "trained on v1, ask Ann")
    assert approved.json()["ready_at"]
    assert world.acme.get(f"/ports/{port['id']}/files/config.json").status_code == 200
    event = world.acme.get("/events", limit=500).json()["items"][-1]
    assert (event["kind"], event["subject"], event["actor"]) == ("port.ready", port["id"], "acme")
    assert event["data"] == {"approved": True, "reason": "trained on v1, ask Ann"}
    # A force is a judgement about lineage; it does not stand for an approval.
    assert world.acme.port(patch, "v1", force="surely v1")["state"] == "held"


def test_retired_port_is_not_read_and_can_be_made_anew(world: World, patch: str) -> None:
    """A retired port is not read any more; the same wish makes a new one."""
    port = world.acme.port(patch, "v2")
    assert world.acme.post(f"/ports/{port['id']}/retire").json()["state"] == "retired"
    refused(world.acme.get(f"/ports/{port['id']}/files"), 409, "port.not_ready")
    refused(world.acme.get(f"/ports/{port['id']}/files/config.json"), 409, "port.not_ready")
    again = world.acme.post("/ports", {"patch": patch, "release": "v2"})
    assert again.status_code == 201
    assert again.json()["id"] != port["id"]
    assert again.json()["fingerprint"] == port["fingerprint"]


def test_port_of_a_patch_too_small_for_the_dtype_is_warned_about(world: World, shelf: Shelf) -> None:
    """A patch too small for the dtype is warned about, with the ways out; in float32 it survives."""
    patch = world.patch()
    world.acme.publish(patch, shelf.patch(world.models.v1, strength=1e-6))
    port = world.acme.port(patch, "v2")
    assert port["state"] == "ready"
    (warning,) = (f for f in port["findings"] if f["code"] == "fidelity.low")
    assert warning["severity"] == "warn"
    assert "float32" in warning["message"]
    assert port["fidelity"]["overall"] < 0.9
    assert port["fidelity"]["worst"] <= port["fidelity"]["overall"]
    exact = world.acme.port(patch, "v2", recipe={"dtype": "float32"})
    assert exact["fidelity"]["overall"] == pytest.approx(1, abs=0.01)
    assert "fidelity.low" not in codes(exact)


def test_port_of_a_patch_that_adds_nothing_is_refused(world: World, shelf: Shelf) -> None:
    """All products zero: refused by name, as `merge` does."""
    patch = world.patch()
    world.acme.publish(patch, shelf.patch(world.models.v1, strength=0.0))
    port = world.acme.port(patch, "v2")
    assert codes(port)["adapter.adds_nothing"] == "refuse"
    assert (port["state"], port["fidelity"]) == ("refused", None)


def test_port_of_a_patch_that_overflows_is_refused(world: World, shelf: Shelf) -> None:
    """A merge that is seen to end in infinities does not become a ready port, which nobody could read."""
    patch = world.patch()
    world.acme.publish(patch, shelf.patch(world.models.v1, strength=1e34, lora_alpha=1e9))
    port = world.acme.port(patch, "v2")
    assert (port["state"], codes(port)["port.overflow"]) == ("refused", "refuse")


def test_port_of_a_patch_with_another_tokenizer_has_a_finding(world: World, another: Callable[[], Path]) -> None:
    """A tokenizer or chat template of the patch's own is a finding when it differs; the recipe says whose is carried."""
    same, own = another(), another()
    make_tokenizer(same)
    make_tokenizer(own, chat_template="{{ messages }}")
    (own / "tokenizer.json").write_text((own / "tokenizer.json").read_text() + "\n")
    patch = world.patch()
    world.acme.publish(patch, same)
    assert codes(world.acme.port(patch, "v2")) == {"lineage.measured": "info"}
    world.acme.publish(patch, own)
    ports = {whose: world.acme.port(patch, "v2", recipe={"tokenizer": whose}) for whose in ("release", "patch")}
    for whose, directory in (("release", world.models.v2), ("patch", own)):
        port = ports[whose]
        assert port["state"] == "ready"
        assert (codes(port)["tokenizer.differs"], codes(port)["chat_template.differs"]) == ("warn", "warn")
        for path in ("tokenizer.json", "chat_template.jinja"):
            merged = world.acme.get(f"/ports/{port['id']}/files/{path}")
            assert merged.content == (directory / path).read_bytes()


def test_port_with_a_missing_patch_tokenizer_is_refused(world: World, patch: str) -> None:
    """Asked for a tokenizer that the patch does not bring, the port is refused."""
    port = world.acme.port(patch, "v2", recipe={"tokenizer": "patch"})
    assert (port["state"], codes(port)["recipe.no_patch_tokenizer"]) == ("refused", "refuse")


def test_changed_companion_files_are_findings(world: World, patch: str, tmp_path: Path) -> None:
    """What changed beside the weights, and what of a release is left out, is said."""
    service = world.service
    directory = continue_base(world.models.v1, service.place / unique("release"))
    config = (directory / "config.json").read_text()
    (directory / "config.json").write_text(config.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    assert (directory / "config.json").read_text() != config
    (directory / "tokenizer.json").write_text((directory / "tokenizer.json").read_text() + " ")
    (directory / "pytorch_model.bin").write_bytes(b"pickle")
    name = unique("r")
    assert service.release("llama", name, directory)["summary"]["left_out"] == ["pytorch_model.bin"]
    port = world.acme.port(patch, name)
    assert port["state"] == "ready"
    found = {f["code"]: f["data"] for f in port["findings"]}
    assert found["config.changed"]["settings"] == {"rms_norm_eps": [1e-6, 1e-5]}
    assert found["tokenizer.changed"]["files"] == ["tokenizer.json"]
    assert found["release.left_out"]["files"] == ["pytorch_model.bin"]
    listed = [f["path"] for f in world.acme.get(f"/ports/{port['id']}/files").json()["files"]]
    assert "pytorch_model.bin" not in listed
    shutil.rmtree(directory)


def test_ports_are_listed_by_family_and_patch(world: World) -> None:
    """A family is heeded, alone and with a patch; a patch of another family, and a version of no patch, are refused."""
    patch = world.patch()
    world.acme.publish(patch, world.models.patch)
    port = world.acme.port(patch, "v2")
    other = world.admin.family(unique("family"))
    assert world.acme.get("/ports", family="llama", limit=1).json()["items"] == [port]
    assert world.acme.get("/ports", patch=patch, family="llama").json()["items"] == [port]
    assert world.acme.get("/ports", family=other).json()["items"] == []
    problem = refused(world.acme.get("/ports", patch=patch, family=other), 409, "patch.other_family")
    assert problem["data"] == {"patch": patch, "family": "llama", "asked": other}
    refused(world.acme.get("/ports", family="nope"), 404, "family.unknown")
    refused(world.acme.get("/ports", family="llama", version="1"), 422, "request.invalid")


def test_pull_command_without_a_port_names_the_command_that_makes_one(world: World, live: str, tmp_path: Path) -> None:
    """`portllm pull` reads by name, so it is the command line that reports port.none."""
    patch = world.patch()
    world.acme.publish(patch, world.models.patch)
    found = subprocess.run(
        [sys.executable, "-m", "app.cli.main", "pull", patch, "--on", "v2", str(tmp_path / "out"), "--json"],
        env={"PORTLLM_URL": live, "PORTLLM_TOKEN": str(world.acme.token), "PATH": ""},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert found.returncode != 0
    assert json.loads(found.stdout)["error"]["code"] == "port.none", found
    assert f"portllm port {patch} --to v2" in found.stdout + found.stderr
    assert not (tmp_path / "out").exists()

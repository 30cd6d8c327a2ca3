"""Patches and aliases: made once per family, described, pointed at."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fixtures import World
from tests.support.registry import refused, unique


def test_patch_created_again_is_returned(world: World) -> None:
    """The same name in the same family again is the same patch; in another family it is refused."""
    name = unique("patch")
    body = {"owner": "acme", "name": name, "family": "llama", "description": "a tone"}
    made = world.acme.post("/patches", body)
    assert made.status_code == 201
    assert made.headers["Location"] == f"/api/v1/patches/acme/{name}"
    again = world.acme.post("/patches", {**body, "description": ""})
    assert (again.status_code, again.json()) == (200, made.json())
    read = world.reader.get(f"/patches/acme/{name}")
    assert read.json() == made.json() | {"aliases": {}}
    other = world.admin.family(unique("family"))
    problem = refused(world.acme.post("/patches", {**body, "family": other}), 409, "patch.taken")
    assert "'llama'" in problem["detail"]
    refused(world.acme.post("/patches", {**body, "family": "nope"}), 404, "family.unknown")
    # The same name belongs to somebody else as well.
    assert world.rival.post("/patches", {**body, "owner": "rival"}).status_code == 201


def test_description_with_an_old_etag_is_refused(world: World) -> None:
    """A change with an ETag that was read before somebody else's change is refused, and changes nothing."""
    patch = world.patch()
    etag = world.acme.get(f"/patches/{patch}").headers["ETag"]
    first = world.acme("PATCH", f"/patches/{patch}", json={"description": "one"}, headers={"If-Match": etag})
    assert first.status_code == 200
    assert first.json()["description"] == "one"
    assert first.headers["ETag"] != etag
    late = world.acme("PATCH", f"/patches/{patch}", json={"description": "two"}, headers={"If-Match": etag})
    problem = refused(late, 412, "request.changed")
    assert patch in problem["detail"]
    assert world.acme.get(f"/patches/{patch}").json()["description"] == "one"
    for header in ({"If-Match": first.headers["ETag"]}, {"If-Match": "*"}, {}):
        changed = world.acme("PATCH", f"/patches/{patch}", json={"description": unique("d")}, headers=header)
        assert changed.status_code == 200


@pytest.mark.parametrize("tag", ['"x"', "\u00b2", '"1", "2"', "9" * 5000, ""])
def test_foreign_etag_matches_nothing(world: World, tag: str) -> None:
    """An ETag that is none of ours matches nothing."""
    patch = world.patch()
    headers = {"If-Match": tag.encode("latin-1")}
    late = world.acme("PATCH", f"/patches/{patch}", json={"description": "x"}, headers=headers)
    refused(late, 412, "request.changed")


def test_unknown_patch_is_404(world: World) -> None:
    """A patch that is not there is a 404 in every place that names it."""
    files = [{"path": "adapter_config.json", "size": 1, "sha256": "0" * 64}]
    for response in (
        world.acme.get("/patches/acme/nope"),
        world.acme("PATCH", "/patches/acme/nope", json={"description": ""}),
        world.acme("PUT", "/patches/acme/nope/aliases/prod", json={"version": "1"}),
        world.acme.post("/patches/acme/nope/versions", {"trained_on": "v1", "files": files}),
        world.acme.get("/patches/acme/nope/versions/1"),
        world.acme.post("/ports", {"patch": "acme/nope", "release": "v2"}),
        world.acme.get("/ports", patch="acme/nope"),
        world.acme.get("/ports", patch="nope"),
    ):
        refused(response, 404, "patch.unknown")


def test_alias_that_moves_has_a_new_etag(world: World, another: Callable[[], Path]) -> None:
    """An alias points at a number, at main, or where another alias points; moving it changes its ETag."""
    patch = world.patch()
    versions = [world.acme.publish(patch, another())["number"] for _ in range(2)]
    assert versions == [1, 2]

    def point(alias: str, version: str, **headers: str) -> object:
        return world.acme("PUT", f"/patches/{patch}/aliases/{alias}", json={"version": version}, headers=headers)

    made = point("prod", "1")
    assert made.json() == {"patch": patch, "alias": "prod", "version": 1}
    assert point("prod", "1").headers["ETag"] == made.headers["ETag"]
    moved = point("prod", "main")
    assert moved.json()["version"] == 2
    assert moved.headers["ETag"] != made.headers["ETag"]
    refused(point("prod", "1", **{"If-Match": made.headers["ETag"]}), 412, "request.changed")
    refused(point("new", "1", **{"If-Match": '"1"'}), 412, "request.changed")
    assert point("prod", "1", **{"If-Match": moved.headers["ETag"]}).json()["version"] == 1
    assert point("stage", "prod").json()["version"] == 1
    assert world.reader.get(f"/patches/{patch}").json()["aliases"] == {"prod": 1, "stage": 1}


def test_alias_of_an_unknown_or_yanked_version_is_refused(world: World, another: Callable[[], Path]) -> None:
    """An alias cannot point at what is not there or was yanked."""
    patch = world.patch()
    path = f"/patches/{patch}/aliases/prod"
    refused(world.acme("PUT", path, json={"version": "main"}), 409, "version.none")
    refused(world.acme("PUT", path, json={"version": "1"}), 404, "version.unknown")
    refused(world.acme("PUT", path, json={"version": "other"}), 404, "alias.unknown")
    world.acme.publish(patch, another())
    assert world.acme("PUT", path, json={"version": "1"}).status_code == 200
    world.acme.post(f"/patches/{patch}/versions/1/yank", {"reason": "wrong data"})
    for version in ("1", "prod"):
        problem = refused(world.acme("PUT", path, json={"version": version}), 410, "version.yanked")
        assert "wrong data" in problem["detail"]
    refused(world.acme("PUT", path, json={"version": "main"}), 409, "version.none")


@pytest.mark.parametrize("reference", ["\u00b2", "\u0661", "0", "-1", "1" * 30, "1" * 5000])
def test_reference_that_only_python_reads_as_a_number_is_unknown(world: World, reference: str) -> None:
    """What only looks like a number to Python is no version."""
    for response in (
        world.acme("PUT", "/patches/acme/tone/aliases/odd", json={"version": reference[:89]}),
        world.acme.post("/ports", {"patch": "acme/tone", "release": "v2", "version": reference}),
        world.acme.get("/ports", patch="acme/tone", version=reference[:89]),
    ):
        assert response.json()["code"] in ("alias.unknown", "version.unknown", "request.invalid"), response.text
    found = world.acme.get(f"/patches/acme/tone/versions/{reference}")
    assert found.json()["code"] in ("version.unknown", "request.invalid"), found.text


def test_patches_are_listed_by_family_and_owner(world: World) -> None:
    """Lists hold what the token may read, newest first, and can be narrowed."""
    family = world.admin.family(unique("family"))
    mine, theirs = world.acme.patch("acme", unique("p"), family), world.rival.patch("rival", unique("p"), family)

    def names(listed: object) -> list[str]:
        return [f"{p['owner']}/{p['name']}" for p in listed.json()["items"]]  # type: ignore[attr-defined]

    assert names(world.acme.get("/patches", family=family)) == [mine]
    assert names(world.rival.get("/patches", family=family)) == [theirs]
    assert names(world.admin.get("/patches", family=family)) == [theirs, mine]
    assert names(world.admin.get("/patches", family=family, owner="acme")) == [mine]
    assert names(world.rival.get("/patches", owner="acme")) == []
    refused(world.acme.get("/patches", family="nope"), 404, "family.unknown")


def test_patch_created_again_with_other_settings_is_refused(world: World) -> None:
    """A repeat that says something else is refused, not swallowed; one that says nothing, or the same, returns what is there."""
    body = {"owner": "acme", "name": unique("patch"), "family": "llama"}
    assert world.acme.post("/patches", body | {"description": "one"}).status_code == 201
    for again in ({}, {"description": "one"}):
        assert world.acme.post("/patches", body | again).json()["description"] == "one"
    refused(world.acme.post("/patches", body | {"description": "two"}), 409, "patch.differs")

"""The Hub protocol: lists of repositories, trees, paths, all of them in pages."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.support.fixtures import Models, World
from tests.support.hub_requests import Hub, refused_by_hub
from tests.support.registry import Service
from tests.support.uploads import with_card


@pytest.fixture
def hub(world: World) -> Hub:
    return Hub(world.acme)


def pages(hub: Hub, path: str, **query: Any) -> Iterator[list[dict[str, Any]]]:
    """Follows Link headers to the end."""
    answer = hub.get(path, params=query)
    while True:
        assert answer.status_code == 200, answer.text
        yield answer.json()
        if "next" not in answer.links:
            return
        address = httpx.URL(answer.links["next"]["url"])
        assert address.host == answer.request.url.host  # clients refuse another host than theirs
        answer = hub.get(str(address.raw_path, "ascii"))


@pytest.fixture(scope="module")
def shop(registries: Callable[..., Service], models: Models) -> Iterator[Service]:
    """Two families, one of them seen by admins only; acme's 7 patches, 3 of them ported; one of rival's."""
    with registries().running() as service:
        service.admin.family("llama")
        service.admin.post("/families", {"name": "hidden"})
        service.release("llama", "v1", models.v1)
        acme, rival = service.caller("acme"), service.caller("rival")
        for number in range(7):
            name = acme.patch("acme", f"p{number}")
            if number < 3:
                acme.publish(name, models.patch)
                assert acme.port(name, "v1")["state"] == "ready"
        rival.patch("rival", "p9")
        yield service


@pytest.fixture
def shopper(shop: Service) -> Hub:
    return Hub(shop.caller("acme", "read"))


def names(found: list[dict[str, Any]]) -> list[str]:
    return [model["id"] for model in found]


ALL = [f"acme/p{n}" for n in range(7)] + [f"acme/p{n}.merged" for n in range(3)] + ["base/llama"]


def test_list_holds_what_the_token_may_read(shopper: Hub, shop: Service) -> None:
    assert sorted(names(shopper.get("/api/models").json())) == sorted(ALL)
    assert names(Hub(shop.caller("rival")).get("/api/models").json()) == ["rival/p9", "base/llama"]
    assert {"rival/p9", "base/hidden", *ALL} == set(names(Hub(shop.admin).get("/api/models").json()))


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
def test_list_by_pages_holds_each_repository_once(shopper: Hub, limit: int) -> None:
    """Nothing twice, nothing left out, whatever the size."""
    found = [name for page in pages(shopper, "/api/models", limit=limit) for name in names(page)]
    assert sorted(found) == sorted(ALL)


MERGED = ["acme/p2.merged", "acme/p1.merged", "acme/p0.merged"]


@pytest.mark.parametrize(("query", "expected"), [
    ({"author": "base"}, ["base/llama"]), ({"author": "rival"}, []), ({"author": "Acme"}, []),
    ({"author": "acme", "search": "p1"}, ["acme/p1", "acme/p1.merged"]), ({"search": "LLAMA"}, ["base/llama"]),
    ({"search": ".merged"}, MERGED), ({"search": "%"}, []), ({"search": "p_"}, []), ({"filter": "merge"}, MERGED),
    ({"filter": ["peft", "lora"], "search": "p6"}, ["acme/p6"]), ({"filter": ["peft", "merge"]}, []), ({"filter": "gguf"}, []),
    ({"filter": "base_model:base/llama", "search": "p0"}, ["acme/p0", "acme/p0.merged"]),
    ({"filter": "base_model:merge:base/llama", "search": "p0"}, ["acme/p0.merged"]),
    ({"filter": "base_model:base/hidden"}, []), ({"filter": "base_model:meta/llama"}, []),
])  # fmt: skip
def test_list_is_filtered(shopper: Hub, query: dict[str, Any], expected: list[str]) -> None:
    assert names(shopper.get("/api/models", params=query).json()) == expected


def test_invalid_list_parameters_are_refused(shopper: Hub) -> None:
    for query, code in (
        ({"limit": 0}, "request.invalid"), ({"cursor": "x"}, "request.cursor"), ({"search": "a" * 300}, "request.invalid"),
        ({"cursor": "a" * 2000}, "request.invalid"), ({"filter": ["x"] * 30}, "request.invalid"),
    ):  # fmt: skip
        refused_by_hub(shopper.get("/api/models", params=query), 422, None, code)
    refused_by_hub(
        shopper.get("/api/models/base/llama/commits/main", params={"cursor": "MTIzNDU2Nzg5"}), 422, None, "request.cursor"
    )


def test_info_can_be_narrowed(hub: Hub) -> None:
    """`blobs` adds sizes and digests, `expand` leaves out all that is not named."""
    plain, full = hub.info("acme/tone"), hub.info("acme/tone", blobs=True)
    assert all(set(sibling) == {"rfilename"} for sibling in plain["siblings"])
    assert all(sibling["lfs"]["sha256"] and sibling["size"] for sibling in full["siblings"])
    assert sum(sibling["size"] for sibling in full["siblings"]) == full["usedStorage"]
    assert set(hub.info("acme/tone", expand=["sha", "tags"])) == {"_id", "id", "sha", "tags"}
    assert {"base_model:base/llama", "base_model:adapter:base/llama", "peft", "lora"} <= set(plain["tags"])


@pytest.fixture
def deep(fresh: Callable[..., Service], models: Models) -> Hub:
    """base/llama with files in directories."""
    service = fresh()
    service.admin.family("llama")
    place = service.place / "v1"
    place.mkdir()
    for path in models.v1.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    for path in ("docs/a.md", "docs/sub/b.md", "docs/sub/c.md", "docs.md", "original/params.json"):
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(path)
    service.release("llama", "v1", place)
    return Hub(service.admin)


def test_tree_of_a_directory_and_of_all_below(deep: Hub) -> None:
    """One directory, or all below it; directories are entries too."""
    top = {entry["path"]: entry["type"] for entry in deep.tree("base/llama")}
    assert (top["docs"], top["original"], top["docs.md"], top["config.json"]) == ("directory", "directory", "file", "file")
    assert "docs/a.md" not in top
    assert [entry["path"] for entry in deep.tree("base/llama", path="docs")] == ["docs/a.md", "docs/sub"]
    below = deep.tree("base/llama", path="docs", recursive=True)
    assert [entry["path"] for entry in below] == ["docs/a.md", "docs/sub", "docs/sub/b.md", "docs/sub/c.md"]
    every = deep.tree("base/llama", recursive=True, expand=True)
    assert {entry["path"] for entry in every if entry["type"] == "file"} == {
        s["rfilename"] for s in deep.info("base/llama")["siblings"]
    }
    assert all(entry["lastCommit"]["id"] == deep.sha("base/llama") for entry in every)
    for path in ("nope", "docs/a", "doc", "config.json/x", "config.json"):
        refused_by_hub(deep.get(f"/api/models/base/llama/tree/main/{path}"), 404, "EntryNotFound", "hub.entry")


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_tree_by_pages_equals_the_tree_at_once(deep: Hub, limit: int) -> None:
    whole = deep.tree("base/llama", recursive=True)
    found = [entry for page in pages(deep, "/api/models/base/llama/tree/main", recursive=True, limit=limit) for entry in page]
    assert found == whole
    assert len(whole) > 10


def test_paths_info_leaves_out_unknown_paths(deep: Hub) -> None:
    """A form, as clients send it; what is not there is left out."""
    form = {"paths": ["docs/a.md", "docs", "nope", "../x", "", "docs/a.md"], "expand": "False"}
    found = deep.caller("POST", "/api/models/base/llama/paths-info/main", whole=True, data=form)
    assert [(entry["type"], entry["path"]) for entry in found.json()] == [("file", "docs/a.md"), ("directory", "docs")]
    listed = {entry["path"]: entry for entry in deep.tree("base/llama", recursive=True)}
    assert [listed[entry["path"]] for entry in found.json()] == found.json()


def test_invalid_form_is_refused(hub: Hub) -> None:
    path = "/api/models/acme/tone/paths-info/main"
    for content, status, code in (
        (b"paths=a&" * 3000, 422, "request.invalid"), (b"paths=\xff", 422, "request.invalid"),
        (b"paths=" + b"a" * 2**20, 413, "request.too_large"),
    ):  # fmt: skip
        answer = hub.caller("POST", path, whole=True, content=content)
        assert answer.status_code == status
        assert answer.json()["code"] == code
    assert hub.caller("POST", path, whole=True, content=b"\x00\x01[]").json() == []


def test_every_ref_leads_to_its_commit(hub: Hub) -> None:
    """All three kinds are there, for clients ask for each; every one leads to its commit."""
    for repository in ("acme/tone", "acme/tone.merged", "base/llama"):
        refs = hub.get(f"/api/models/{repository}/refs", params={"include_prs": 1}).json()
        assert (refs["converts"], refs["pullRequests"]) == ([], [])
        assert refs["branches"][0]["name"] == "main"
        for ref in refs["branches"] + refs["tags"]:
            assert hub.sha(repository, ref["name"]) == ref["targetCommit"]
            assert ref["ref"] in (f"refs/heads/{ref['name']}", f"refs/tags/{ref['name']}")


def test_ref_of_an_unreadable_release_is_left_out(fresh: Callable[..., Service], models: Models) -> None:
    """Releases whose cards are gone get no commit; the others get theirs."""
    service = fresh()
    service.admin.family("llama")
    for name in ("v1", "v2", "v3"):
        with_card(models.v1, service.place / name, "---\nlicense: mit\n---\n")
        service.release("llama", name, service.place / name)
    for name in ("v2", "v3"):
        (service.place / name / "README.md").unlink()
    service.execute("DELETE FROM commits")  # so that the cards are read now
    refs = Hub(service.admin).get("/api/models/base/llama/refs")
    assert refs.status_code == 200, refs.text
    assert [ref["name"] for ref in refs.json()["tags"]] == ["v1"]


def test_history_by_pages_equals_the_history_at_once(hub: Hub) -> None:
    """Of a base: its parents."""
    found = [line for page in pages(hub, "/api/models/base/llama/commits/v2", limit=1) for line in page]
    assert [line["title"] for line in found] == ["Release v2", "Release v1"]
    assert found[0]["id"] == hub.sha("base/llama", "v2")
    assert found[0]["authors"] == [{"user": "base", "avatar": None}]

"""Names: every rule of the design, at the function and over HTTP."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import DomainError
from app.domain.names import RESERVED_OWNERS, check_name, check_owner, check_patch, check_revision
from app.domain.principal import INSTALLATION
from tests.support.fixtures import World
from tests.support.registry import refused, unique

GOOD = ["a", "7", "llama-3-8b", "v2.1", "a_b", "x" * 64, "mains", "a.gitx", "merged", "git", "api2", "0.1"]
BAD = [
    "", "A", "Llama", "-a", "a-", ".a", "a.", "_a", "a_", "a--b", "a..b", "x.git", "x.merged", "x" * 65, "a b", "a/b", "a@b",
    "ä", "a\n", "a\x00", "\u0661", "..", "a%2fb",
]  # fmt: skip
COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.mark.parametrize("name", GOOD)
def test_valid_names_are_accepted(name: str) -> None:
    """Lower-case letters, digits and single marks inside, up to 64 characters."""
    assert check_name(name, "a family") == name


@pytest.mark.parametrize("name", BAD)
def test_invalid_names_are_refused(name: str) -> None:
    """Everything else is refused as a family, patch, owner, release and alias alike."""
    for check in (check_name, check_revision):
        with pytest.raises(DomainError) as caught:
            check(name, "a family")
        assert caught.value.code == "request.name"
    with pytest.raises(DomainError):
        check_owner(name)
    with pytest.raises(DomainError):
        check_patch("acme", name)


@pytest.mark.parametrize("name", ["1", "007", "1" * 64, "main", COMMIT, "deadbeef" * 5, "unknown"])
def test_revision_like_a_version_commit_or_main_is_refused(name: str) -> None:
    """A release or alias that could be taken for a version number, a commit or `main` is refused; a family is not."""
    assert check_name(name, "a family") == name
    with pytest.raises(DomainError) as caught:
        check_revision(name, "a release")
    assert caught.value.code == "request.name"


@pytest.mark.parametrize("name", ["v1", "1a", "1.0", COMMIT[:-1], COMMIT + "0", COMMIT[:-1] + "g", "maine"])
def test_revision_that_only_resembles_a_reserved_one_is_accepted(name: str) -> None:
    """What only resembles a number, a commit or `main` may be used."""
    assert check_revision(name, "an alias") == name


def test_reserved_owner_is_refused() -> None:
    """The first segment of a route or of a Hub repository can be nobody's name, nor can that of the installation."""
    assert {"base", "api", "v1", "ui", "cas", "docs", INSTALLATION} <= RESERVED_OWNERS
    for owner in RESERVED_OWNERS:
        with pytest.raises(DomainError):
            check_owner(owner)
        with pytest.raises(DomainError):
            check_patch(owner, "tone")
        assert check_patch("acme", owner) == f"acme/{owner}"


def test_repository_id_of_more_than_89_characters_is_refused() -> None:
    """The Hub's limit holds for owner and name together."""
    assert len(check_patch("o" * 44, "n" * 44)) == 89
    with pytest.raises(DomainError) as caught:
        check_patch("o" * 45, "n" * 44)
    assert caught.value.data["limit"] == 89


@given(st.text(max_size=70))
def test_accepted_names_need_no_quoting_in_urls_and_paths(name: str) -> None:
    """Whatever is accepted can stand in a URL, a path and a repository id unquoted."""
    try:
        check_name(name, "a patch")
    except DomainError:
        return
    assert 0 < len(name) <= 64
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    assert ".." not in name
    assert "--" not in name
    assert not name.endswith((".git", ".merged"))
    assert name[0].isalnum()
    assert name[-1].isalnum()


@pytest.mark.parametrize("name", ["Upper", "a--b", "x.git", "-a"])
def test_invalid_name_over_http_is_refused_by_one_code(world: World, name: str) -> None:
    """Each noun that people name refuses a bad name with the same code and says which noun it was."""
    owned = world.patch()
    world.acme.publish(owned, world.models.patch)
    for response, noun in (
        (world.admin.post("/families", {"name": name}), "a family"),
        (world.service.register("llama", name, world.models.v1), "a release"),
        (world.acme.post("/patches", {"owner": "acme", "name": name, "family": "llama"}), "a patch"),
        (world.admin.post("/patches", {"owner": name, "name": "tone", "family": "llama"}), "an owner"),
        (world.admin.post("/tokens", {"owner": name, "scopes": ["read"]}), "an owner"),
        (world.acme("PUT", f"/patches/{owned}/aliases/{name}", json={"version": "1"}), "an alias"),
    ):
        problem = refused(response, 422, "request.name")
        assert problem["data"]["what"] == noun


@pytest.mark.parametrize("name", ["main", "12", COMMIT, "unknown"])
def test_reserved_revision_over_http_is_refused(world: World, name: str) -> None:
    """Neither a release nor an alias can be called like a version, a commit, or `main`."""
    refused(world.service.register("llama", name, world.models.v1), 422, "request.name")
    refused(world.acme("PUT", f"/patches/acme/tone/aliases/{name}", json={"version": "1"}), 422, "request.name")


def test_reserved_owner_over_http_gets_no_token_and_no_patch(world: World) -> None:
    """Nobody gets a token, or a patch, as a reserved owner."""
    for owner in ("docs", INSTALLATION):
        refused(world.admin.post("/tokens", {"owner": owner, "scopes": ["read"]}), 422, "request.name")
    body = {"owner": "cas", "name": unique("p"), "family": "llama"}
    refused(world.admin.post("/patches", body), 422, "request.name")


def test_zero_characters_over_http_are_refused(world: World) -> None:
    """Refused wherever they could be said, because PostgreSQL would not keep them."""
    for path, body in (
        ("/families", {"name": unique("f"), "description": "a\0b"}),
        ("/patches", {"owner": "acme", "name": unique("p"), "family": "llama", "description": "\0"}),
        ("/tokens", {"owner": "acme", "scopes": ["read"], "name": "a\0"}),
        (f"/ports/{world.port['id']}/approve", {"reason": "x\0"}),
    ):
        refused(world.admin.post(path, body), 422, "request.invalid")
    for path in ("/families/a%00", "/patches/acme/a%00", "/ports/a%00", "/jobs/acme:a%00", "/uploads/a%00"):
        refused(world.admin.get(path), 422, "request.invalid")
    refused(world.admin("DELETE", "/tokens/a%00"), 422, "request.invalid")
    refused(world.admin.get("/ports", state="a\0"), 422, "request.invalid")

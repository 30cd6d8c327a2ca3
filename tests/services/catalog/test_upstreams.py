"""Upstreams: who may add them, what may be one, and that their tokens are kept encrypted and never shown."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.domain.upstreams import Hub, Reference, is_reference
from app.services.access import encryption
from app.services.catalog import upstreams
from tests.support.fixtures import World
from tests.support.http_server import serving
from tests.support.registry import Service, refused, unique
from tests.support.service_process import invoke

TOKEN = "hf_sEcReT-of-the-upstream"
OLD, NEW = "the-old-key-of-this-installation", "the-new-key-of-this-installation"
Fresh = Callable[..., Service]


def put(service: Service, name: str, **body: Any) -> dict[str, Any]:
    answer = service.admin("PUT", f"/upstreams/{name}", json={"endpoint": "https://hub.example/", **body})
    assert answer.status_code in (200, 201), answer.text
    return dict(answer.json())


def hub(service: Service, name: str) -> Hub:
    """As a client of it would get it."""
    with service.runtime.read() as uow:
        return upstreams.hub(uow, name)


def stored(service: Service, name: str) -> str:
    return str(service.rows("SELECT token FROM upstreams WHERE name = :name", name=name)[0][0])


def test_hub_is_an_upstream_from_the_start(world: World) -> None:
    found = world.admin.get("/upstreams/hf").json()
    assert (found["endpoint"], found["has_token"], found["built_in"]) == ("https://huggingface.co", False, True)
    assert hub(world.service, "hf") == Hub("hf", "https://huggingface.co")


def test_upstream_is_added_replaced_and_removed(world: World) -> None:
    """Said anew, it is as was said now: nothing of before is left, its token neither."""
    name = unique("hub")
    made = world.admin("PUT", f"/upstreams/{name}", json={"endpoint": "https://hub.example/", "token": TOKEN})
    assert made.status_code == 201
    assert TOKEN not in made.text
    assert made.json() == world.admin.get(f"/upstreams/{name}").json()
    assert (made.json()["endpoint"], made.json()["has_token"], made.json()["publishers"]) == ("https://hub.example", True, False)
    assert name in [found["name"] for found in world.admin.get("/upstreams").json()["items"]]
    assert hub(world.service, name).token == TOKEN
    again = put(world.service, name, http_hosts=["hub.example"], endpoint="http://hub.example")
    assert (again["has_token"], again["http_hosts"]) == (False, ["hub.example"])
    assert hub(world.service, name) == Hub(name, "http://hub.example", http_hosts=("hub.example",))
    assert world.admin("DELETE", f"/upstreams/{name}").status_code == 200
    refused(world.admin.get(f"/upstreams/{name}"), 404, "upstream.unknown")
    refused(world.admin("DELETE", f"/upstreams/{name}"), 404, "upstream.unknown")
    told = [e["kind"] for e in world.admin.get("/events", limit=500).json()["items"] if e["subject"] == name]
    assert told == ["upstream.put", "upstream.put", "upstream.removed"]


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://hub.example", "ftp://hub.example", "hub.example", "https://", "https://user:secret@hub.example", "https://hub.example?x=1",
        "https://hub.example#x", "https://hub.example:0", "https://hub example", "https://[::1", "https://hub.example/%2e%2e",
    ],
)  # fmt: skip
def test_invalid_endpoint_is_refused(world: World, endpoint: str) -> None:
    problem = refused(world.admin("PUT", "/upstreams/other", json={"endpoint": endpoint}), 422, "upstream.endpoint")
    assert "secret" not in problem["detail"]


def test_refused_upstream_shows_no_token(world: World) -> None:
    """Also then nothing of a token is in the answer."""
    for more in (
        {"token": f"{TOKEN} x"},
        {"token": f"{TOKEN}\n"[:-1] + "\x01"},
        {"token": TOKEN * 99},
        {"private_hosts": ["a b"]},
    ):
        answer = world.admin("PUT", "/upstreams/other", json={"endpoint": "https://hub.example", **more})
        refused(answer, 422, "request.invalid")
        assert TOKEN not in answer.text
    refused(world.admin("PUT", "/upstreams/push", json={"endpoint": "https://hub.example"}), 422, "request.name")
    refused(world.admin("PUT", "/upstreams/No", json={"endpoint": "https://hub.example"}), 422, "request.name")


def test_upstream_token_is_stored_encrypted_only(fresh: Fresh) -> None:
    """Neither in the database nor in events, the audit trail, or an error about it."""
    service = fresh()
    put(service, "hub", token=TOKEN)
    assert TOKEN not in stored(service, "hub")
    for table in ("upstreams", "events", "idempotency_answers"):
        columns = service.rows(f"SELECT * FROM {table}")
        assert TOKEN not in repr(columns), table
    assert TOKEN not in service.admin.get("/audit").text
    assert TOKEN not in repr(hub(service, "hub"))
    if service.on_sqlite:
        assert TOKEN.encode() not in b"".join(p.read_bytes() for p in service.data.glob("portllm.db*"))


def test_encrypted_token_is_bound_to_its_row_and_endpoint(fresh: Fresh) -> None:
    """Whoever may write to the database cannot have a token sent elsewhere, nor give it to another upstream."""
    service = fresh()
    put(service, "hub", token=TOKEN)
    put(service, "other", token="another")
    service.execute("UPDATE upstreams SET token = :token WHERE name = 'other'", token=stored(service, "hub"))
    service.execute("UPDATE upstreams SET endpoint = 'https://thief.example' WHERE name = 'hub'")
    for name in ("hub", "other"):
        with pytest.raises(DomainError) as raised:
            hub(service, name)
        assert raised.value.code == "secret.damaged"
        assert TOKEN not in str(raised.value)


@pytest.mark.parametrize(
    "sealed", ["", "x", "s2.a.b", "s1.", "s1.{key}.", "s1.{key}.!!!", "s1.{key}.AAAA", "s1.{key}." + "A" * 100]
)
def test_column_without_a_ciphertext_is_refused(sealed: str) -> None:
    """Whatever stands in the column, it is a refusal and no crash."""
    place = encryption.SecretContext("upstreams.token", "ups_1", "https://hub.example", "The token")
    with pytest.raises(DomainError) as raised:
        encryption.unseal([OLD.encode()], place, sealed.format(key=encryption.name_of(OLD.encode())))
    assert raised.value.code == "secret.damaged"


def test_equal_tokens_have_different_ciphertexts() -> None:
    """Nor does the name of a key tell the key."""
    place = encryption.SecretContext("upstreams.token", "ups_1", "https://hub.example", "The token")
    one, two = (encryption.seal([OLD.encode()], place, TOKEN) for _ in range(2))
    assert one != two
    assert {encryption.unseal([NEW.encode(), OLD.encode()], place, sealed) for sealed in (one, two)} == {TOKEN}
    assert OLD not in one


def test_key_rotation_keeps_tokens_readable(registries: Fresh) -> None:
    """A new key reads what the old one wrote while it is accepted; written anew, the old one can be forgotten."""
    service = registries(secret_key=OLD)
    with service.running():
        put(service, "hub", token=TOKEN)
        put(service, "without")
    data, url = service.data, service.settings.database_url
    known = {} if service.on_sqlite else {"PORTLLM_DATABASE_URL": url}
    both = {**known, "PORTLLM_SECRET_KEY": NEW, "PORTLLM_SECRET_KEYS_ACCEPTED": f'["{OLD}"]'}
    alone = {**known, "PORTLLM_SECRET_KEY": NEW}

    gone = invoke("db", "reencrypt", "--data", data, "--json", **alone)
    assert gone.exit_code == 1
    assert '"code": "secret.key"' in gone.output
    assert "'hub'" in gone.output
    assert encryption.name_of(OLD.encode()) in gone.output

    done = invoke("db", "reencrypt", "--data", data, "--json", **both)
    assert (done.exit_code, '"reencrypted": 1' in done.output) == (0, True), done.output
    again = invoke("db", "reencrypt", "--data", data, **alone)
    assert (again.exit_code, "0 encrypted anew, 1 were" in again.output) == (0, True), again.output
    for ended in (gone, done, again):
        assert [word for word in (TOKEN, OLD, NEW) if word in ended.output] == []


def test_upstreams_are_changed_by_admins_only(world: World) -> None:
    for caller in (world.acme, world.reader):
        for method, path in (("GET", "/upstreams"), ("GET", "/upstreams/hf"), ("DELETE", "/upstreams/hf")):
            refused(caller(method, path), 403, "token.scope")
        refused(caller("PUT", "/upstreams/hf", json={"endpoint": "https://hub.example"}), 403, "token.scope")


def test_pulls_are_allowed_by_the_setting_of_the_upstream(fresh: Fresh) -> None:
    """An upstream that an admin added is for admins, until publishers are let in; the Hub as it comes is for both."""
    service = fresh()
    put(service, "closed")
    put(service, "shared", publishers=True)
    acme, admin = Principal("acme", frozenset({"read", "publish"}), "x"), Principal("root", frozenset({"admin"}), "x")
    with service.runtime.read() as uow:
        for principal, name in ((acme, "hf"), (acme, "shared"), (admin, "closed")):
            upstreams.require_usable(uow, principal, name)
        for name, code in (("closed", "upstream.closed"), ("nope", "upstream.unknown")):
            with pytest.raises(DomainError) as raised:
                upstreams.require_usable(uow, acme, name)
            assert raised.value.code == code


def test_upstream_commands_add_list_show_and_remove(fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Added with a token from standard input, listed, shown, removed."""
    service = fresh()
    with serving(service) as url:
        known = {"PORTLLM_URL": url, "PORTLLM_TOKEN": service.admin.token or ""}
        words = ("upstream", "add", "hub", "--endpoint", "https://hub.example", "--private-host", "hub.example", "--token-stdin")
        refusal = invoke(*words, **known)
        assert (refusal.exit_code, "[client.token]" in refusal.output) == (2, True)
        added = invoke(*words, given=f"{TOKEN}\n", **known)
        assert (added.exit_code, added.output) == (0, "hub is https://hub.example, with a token, for admins.\n")
        assert "hub.example" in invoke("upstream", "ls", **known).output
        assert '"has_token": true' in invoke("upstream", "show", "hub", "--json", **known).output
        assert invoke("upstream", "rm", "hub", **known).output == "Upstream hub is forgotten.\n"
        assert "[upstream.unknown]" in invoke("upstream", "show", "hub", **known).output


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("hf:org/name", ("hf", "org/name", "main")), ("hf:org/Name-1.0@v2", ("hf", "org/Name-1.0", "v2")),
        ("hf:gpt2", ("hf", "gpt2", "main")),
        ("our.hub-2:acme/tone@3@v2", ("our.hub-2", "acme/tone", "3@v2")), ("hf:org/x@refs/pr/1", ("hf", "org/x", "refs/pr/1")),
        ("hf:org/*", ("hf", "org/*", "main")),
    ],
)  # fmt: skip
def test_upstream_reference_is_parsed(text: str, found: tuple[str, str, str]) -> None:
    reference = Reference.parse(text)
    assert (reference.upstream, reference.repository, reference.revision) == found
    assert is_reference(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "org/name", "hf:", "hf:/name", "hf:org/", "hf:a/b/c", "hf:../x", "hf:org/..", "hf:o..g/x", "hf:org/x@",
        "hf:org/x@../y",
        "hf:org/x@a b", "hf:org/x@a?b", "HF:org/x", "hf:org/x#y", "hf:org/x%2f", f"hf:org/{'x' * 97}", f"hf:org/x@{'x' * 201}",
        "hf:*", "hf:*/x", "hf:org/x\n", "hf:org/x@main\0",
    ],
)  # fmt: skip
def test_invalid_upstream_reference_is_refused(text: str) -> None:
    with pytest.raises(DomainError) as raised:
        Reference.parse(text)
    assert raised.value.code == "upstream.reference"


@pytest.mark.parametrize("text", ["/models/x", "./hf", "s3://bucket/x", "C:/x", "/models/hf:org/x", "models"])
def test_path_or_s3_uri_is_no_upstream_reference(text: str) -> None:
    assert not is_reference(text)

"""What users will do wrong ends with one sentence that says what to do, a stable code, and an exit code to rely on."""

import json
import shutil
import socket
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from tests.support.service_process import Service, invoke

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def published(service: Service, models: Path) -> Path:
    """Families said (v1, v2) and said-wide, a patch said/tone of said with a port on v2; returns the directory of models."""
    for command in (
        ["release", "add", "said", "v1", "--from", models / "v1", "--wait"],
        ["release", "add", "said", "v2", "--from", models / "v2", "--wait"],
        ["release", "add", "said-wide", "w1", "--from", models / "wide", "--wait"],
        ["patch", "push", "said/tone", models / "patch", "--family", "said", "--trained-on", "v1"],
        ["port", "said/tone", "--to", "v2"],
    ):
        done = invoke(*command, **service.variables())
        assert done.exit_code == 0, done.output
    return models


@pytest.mark.parametrize(
    ("command", "code", "hint", "exit_code"),
    [
        ("ls ports --url localhost:8000", "client.url", "must begin with http://", 2),
        ("ls ports --url http://[::1", "client.url", "PORTLLM_URL", 2),
        ("ls ports --token none", "token.missing", "portllm token create", 1),
        ("ls ports --token wörld", "client.token", "PORTLLM_TOKEN", 2),
        ("token create acme --role reader --scope read", "client.role", "--role or --scope", 2),
        ("token create acme --role reader --expires soon", "client.span", "90d", 2),
        ("ls nonsense", "client.list", "families, releases, patches", 2),
        ("show tone", "client.name", "OWNER/NAME", 2),
        ("show a/b/c", "client.name", "OWNER/NAME", 2),
        ("port /tone --to v2", "client.name", "OWNER/NAME", 2),
        ("pull said --on v2 {tmp}/out", "client.name", "OWNER/NAME", 2),
        ("show said/nothing", "patch.unknown", "portllm ls patches", 1),
        ("port said/tone --to v9", "release.unknown", "portllm ls releases", 1),
        ("port said/tone --to v2 --version 7", "version.unknown", "", 1),
        ("port said/tone --to v2 --version prod", "alias.unknown", "", 1),
        ("pull said/tone --on v1 {tmp}/out", "port.none", "portllm port said/tone --to v1", 1),
        ("pull said/tone --on v9 {tmp}/out", "release.unknown", "portllm ls releases", 1),
        ("pull said/tone --on v2 {models}/v1", "output.exists", "Choose another directory", 1),
        ("pull said/tone --on v2 {models}/v1/config.json", "output.exists", "Choose another directory", 1),
        ("pull said/tone --on v2 {models}/v1/config.json/out", "client.file", "config.json", 1),
        ("release add said v3 --from {models}/nowhere", "release.directory", "where the service runs", 1),
        ("release add said v3 --from {models}/v1/config.json", "release.directory", "where the service runs", 1),
        ("release add said v3 --from /etc", "release.root", "--allow-root", 1),
        ("release add said v3 --from {models}/v2 --parent v0", "release.parent", "Register the parent first", 1),
        ("release add said v1 --from {models}/v2", "release.taken", "choose another release name", 1),
        ("release add said 7 --from {models}/v2", "request.name", "reserved for versions", 1),
        ("release add SAID v1 --from {models}/v2", "request.name", "Lower-case letters", 1),
        ("patch push said/Tone {models}/patch --family said --trained-on v1", "request.name", "Lower-case letters", 1),
        ("patch push docs/tone {models}/patch --family said --trained-on v1", "request.name", "reserved", 1),
        ("patch push said/new {models}/patch --family none --trained-on v1", "family.unknown", "portllm ls families", 1),
        ("patch push said/new {models}/patch --family said --trained-on v9", "release.unknown", "portllm ls releases", 1),
        ("patch push said/tone {models}/patch --family said-wide --trained-on w1", "patch.taken", "'said'", 1),
        ("patch push said/wide {models}/patch --family said-wide --trained-on w1", "port.shape", "another size or family", 1),
        ("patch push said/tone {models}/patch --family said --trained-on v2", "version.trained_on", "v1", 1),
        ("patch push said/new {models}/v1 --family said --trained-on v1", "adapter.missing_file", "save_pretrained", 1),
        ("merge {models}/v1 {models}/patch {models}/v2", "output.exists", "Choose another directory", 1),
        ("merge {models}/v1 {models}/patch {models}/v1/config.json/out", "client.file", "config.json", 1),
        ("inspect {models}/v1 {models}/" + "x" * 300 + " {models}/patch", "client.file", "name too long", 1),
        ("merge {models}/nowhere {models}/patch {tmp}/out", "checkpoint.missing_file", "complete model directory", 1),
        ("merge {models}/wide {models}/patch {tmp}/out", "port.shape", "another size or family", 1),
    ],
)  # fmt: skip
def test_error_is_one_line_on_stderr_and_an_object_in_json(
    service: Service, published: Path, tmp_path: Path, command: str, code: str, hint: str, exit_code: int
) -> None:
    """As text: one line on standard error. With --json: the same error as an object on standard output too."""
    variables = service.variables()
    words = command.format(models=published, tmp=tmp_path).split()
    for option, variable in (("--url", "PORTLLM_URL"), ("--token", "PORTLLM_TOKEN")):
        if option in words:
            at = words.index(option)
            variables[variable] = words[at + 1]
            del words[at : at + 2]
    ended = invoke(*words, **variables)
    _check(ended, code, exit_code)
    assert hint in ended.stderr
    as_json = invoke(*words, "--json", **variables)
    _check(as_json, code, exit_code)
    error = json.loads(as_json.stdout)["error"]
    assert error["code"] == code
    assert error["message"] in as_json.stderr


@pytest.mark.parametrize(
    "command",
    [
        "port said/tone --to v2 --dtype float8",
        "port said/tone --to v2 --tokenizer base",
        "token create said --scope write",
        "jobs ls --state sleeping",
    ],
)  # fmt: skip
def test_a_value_outside_a_fixed_set_is_wrong_usage(command: str) -> None:
    """Found before anything is asked: no service and no token are needed; the option and what it may be are named."""
    *_, option, value = command.split()
    ended = invoke(*command.split(), NO_COLOR="1", TERM="dumb", COLUMNS="200")
    assert ended.exit_code == 2, ended.output
    assert f"Invalid value for '{option}'" in ended.stderr
    assert f"'{value}' is not one of" in ended.stderr


def test_a_rejected_release_is_an_error_in_json_too(service: Service, tmp_path: Path) -> None:
    """One document: the release as it is, and the error as other failures have it."""
    empty = service.root / "releases/said-empty"
    empty.mkdir()
    ended = invoke("release", "add", "said-empty", "v1", "--from", empty, "--wait", "--json", **service.variables())
    told = json.loads(ended.stdout)
    _check(ended, told["error"]["code"], 1)
    assert told["error"]["message"] in ended.stderr
    assert (told["name"], told["state"]) == ("v1", "rejected")


def test_missing_token_names_where_the_first_one_is(service: Service) -> None:
    """Says where the first token is."""
    ended = invoke("ls", "patches", PORTLLM_URL=service.url)
    _check(ended, "client.token", 2)
    assert "PORTLLM_TOKEN" in ended.stderr
    assert "admin-token" in ended.stderr


def test_unreachable_service_is_named() -> None:
    """Nobody listens at the address."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        ended = invoke("ls", "patches", PORTLLM_URL=url, PORTLLM_TOKEN="plt_x")
    _check(ended, "client.unreachable", 1)
    assert url in ended.stderr
    assert "portllm serve" in ended.stderr


def test_a_token_may_end_in_a_line_break(service: Service) -> None:
    """As it does when a variable is filled from DATA/admin-token by something else than a shell."""
    variables = service.variables() | {"PORTLLM_TOKEN": f"{service.token}\n"}
    assert invoke("ls", "patches", **variables).exit_code == 0


def test_missing_patch_directory_is_wrong_usage(service: Service, published: Path, tmp_path: Path) -> None:
    """A path that is not there or is a file is wrong usage, and named."""
    for path in (tmp_path / "nowhere", published / "patch/adapter_config.json"):
        ended = invoke("patch", "push", "said/x", path, "--family", "said", "--trained-on", "v1", **service.variables())
        assert ended.exit_code == 2
        assert "PEFT_DIR" in ended.stderr


def test_pickled_patch_is_refused_before_anything_is_sent(service: Service, published: Path, tmp_path: Path) -> None:
    """The remedy names the option of save_pretrained; the registry has never heard of the patch."""
    pickled = shutil.copytree(published / "patch", tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    ended = invoke("patch", "push", "said/pickled", pickled, "--family", "said", "--trained-on", "v1", **service.variables())
    _check(ended, "adapter.pickle", 1)
    assert "safe_serialization=True" in ended.stderr
    assert invoke("show", "said/pickled", **service.variables()).exit_code == 1


def test_missing_scope_is_named(service: Service, published: Path) -> None:
    """A token that may only read can neither publish nor register."""
    made = invoke("token", "create", "said", "--scope", "read", **service.variables())
    assert invoke("family", "grant", "said", "said", **service.variables()).exit_code == 0
    variables = service.variables() | {"PORTLLM_TOKEN": made.stdout.strip()}
    push = ["patch", "push", "said/tone", published / "patch", "--family", "said", "--trained-on", "v1"]
    for command, scope in ((push, "'publish'"), (["release", "add", "said", "v1", "--from", published / "v1"], "'admin'")):
        ended = invoke(*command, **variables)
        _check(ended, "token.scope", 1)
        assert scope in ended.stderr
    assert invoke("ls", "ports", **variables).exit_code == 0


def test_disk_full_at_pull(service: Service, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before the first byte is fetched, with both numbers; with space again, the same command succeeds."""
    monkeypatch.setattr("app.cli.partial_download.shutil.disk_usage", lambda _: Usage(10**6, 10**6 - 1000, 1000))
    command = ["pull", "said/tone", "--on", "v2", tmp_path / "deep/out"]
    ended = invoke(*command, **service.variables())
    _check(ended, "output.no_space", 1)
    assert "1000 are free" in ended.stderr
    assert "nothing was left behind" in ended.stderr
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert invoke(*command, **service.variables()).exit_code == 0


def _check(ended: Any, code: str, exit_code: int) -> None:
    assert ended.exit_code == exit_code, ended.output
    assert ended.stderr.startswith("portllm: ")
    assert ended.stderr.endswith(f"[{code}]\n")
    assert ended.stderr.count("\n") == 1, "one sentence, on one line"

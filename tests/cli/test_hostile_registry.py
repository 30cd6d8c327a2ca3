"""A registry that lies, or is none: the client keeps what arrives inside its directory and believes only digests."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.hostile_registry import CONTENT, PLAIN, one_port_registry, running_server
from tests.support.service_process import Service, invoke


@pytest.mark.parametrize(
    "path",
    [
        "../../x", "../x", "a/../../x", "/etc/x", "..", ".", "", "a\\..\\x", "x\0y", ".portllm-pull.json", "./.portllm-pull.json",
    ],
)  # fmt: skip
def test_a_path_that_leaves_the_directory_is_refused(path: str, tmp_path: Path) -> None:
    """Nothing is written, and the sentence shows the path."""
    deep = tmp_path / "a/b/c"
    deep.mkdir(parents=True)
    with running_server(one_port_registry(path)) as variables:
        ended = invoke("pull", "acme/tone", "--on", "v1", deep / "out", **variables)
    assert ended.exit_code == 1
    assert ended.stderr.endswith("[pull.path]\n"), ended.stderr
    assert CONTENT not in [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    assert not (deep / "out").exists()


EVIL = "\x1b]0;owned\x07\x9b31m\u202e[red]x\r\nportllm: all is well"
ROW: dict[str, Any] = {
    **dict.fromkeys(("id", "name", "owner", "family", "description", "parent", "source", "patch", "release", "state"), EVIL),
    **dict.fromkeys(("kind", "created_at", "subject", "actor", "at", "trained_on", "fingerprint", "reason", "target"), EVIL),
    "version": 1, "number": 1, "total_bytes": 1, "findings": [{"severity": "warn", "code": EVIL, "message": EVIL, "data": {}}],
    "fidelity": None, "aliases": {EVIL: 1}, "items": [], "next_cursor": None, "problem": None, "summary": None,
    "origin": {EVIL: EVIL}, "facts": {"rank": EVIL}, "published_at": EVIL, "recipe": PLAIN, "progress": None,
}  # fmt: skip
LISTS = ("families", "releases", "patches", "ports", "versions", "events", "materialisations")
VERBS = [
    "ls families", "ls releases", "ls patches", "ls ports", "show acme/tone", "show prt_1", "release show llama v1",
    "approve prt_1 --reason x", "retire prt_1", "jobs show x", "jobs cancel x", "patch yank acme/tone 1 --reason x", "events",
]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("status", [200, 409])
def test_text_of_a_registry_moves_no_cursor_and_adds_no_line(verb: str, as_json: bool, status: int) -> None:
    """Whatever it says of its patches, or as the reason of a refusal, is shown as text."""

    def answer(path: str) -> tuple[int, str, bytes]:
        if status >= 400:
            problem = {"code": f"x.{EVIL}", "detail": EVIL, "remedy": EVIL}
            return status, "application/problem+json", json.dumps(problem).encode()
        is_list = path.rpartition("/")[2] in LISTS
        return 200, "application/json", json.dumps({"items": [ROW], "next_cursor": None} if is_list else ROW).encode()

    with running_server(answer) as variables:
        ended = invoke(*verb.split(), *(["--json"] if as_json else []), **variables)
    out = ended.stdout + ended.stderr
    assert not set(out) & set("\x1b\x07\x9b\u202e\r")
    assert "\nportllm: all is well" not in out
    if status >= 400:
        assert ended.exit_code == 1
        assert "\\x1b]0;owned" in ended.stderr
        assert ended.stderr.count("\n") == 1


def test_an_ordinary_path_is_taken(tmp_path: Path) -> None:
    """The server of these tests is believed where it does not lie: what the others refuse is refused for its path alone."""
    with running_server(one_port_registry("sub/model.safetensors")) as variables:
        ended = invoke("pull", "acme/tone", "--on", "v1", tmp_path / "out", "--json", **variables)
    assert ended.exit_code == 0, ended.output
    assert (tmp_path / "out/sub/model.safetensors").read_bytes() == CONTENT


def test_other_bytes_than_promised_are_refused(tmp_path: Path) -> None:
    """The right size, but not the right digest: never visible, and removed."""
    with running_server(one_port_registry("model.safetensors", content=CONTENT[::-1])) as variables:
        ended = invoke("pull", "acme/tone", "--on", "v1", tmp_path / "out", **variables)
    assert ended.exit_code == 1
    assert ended.stderr.endswith("[pull.digest]\n")
    assert not list(tmp_path.rglob("model.safetensors"))


def test_more_bytes_than_promised_do_not_fill_the_disk(tmp_path: Path) -> None:
    """An answer that is longer than the file was said to be is broken off."""
    with running_server(one_port_registry("model.safetensors", content=bytes(64 * 2**20), size=100)) as variables:
        ended = invoke("pull", "acme/tone", "--on", "v1", tmp_path / "out", **variables)
    assert ended.exit_code == 1
    assert ended.stderr.endswith("[pull.size]\n")
    assert all(p.stat().st_size < 4 * 2**20 for p in tmp_path.rglob("*") if p.is_file())


@pytest.mark.parametrize("status", [200, 404, 502])
def test_another_web_server_is_not_taken_for_a_registry(status: int, tmp_path: Path) -> None:
    """A page in place of JSON, whatever its status: a sentence about PORTLLM_URL."""
    with running_server(lambda _: (status, "text/html", b"<h1>It works!</h1>")) as variables:
        for command in (["ls", "patches"], ["show", "acme/tone"], ["pull", "acme/tone", "--on", "v1", tmp_path / "out"]):
            ended = invoke(*command, **variables)
            assert ended.exit_code == 1
            assert ended.stderr.endswith("[client.unexpected]\n"), ended.stderr
            assert variables["PORTLLM_URL"] in ended.stderr


def test_a_name_means_plain_addition(service: Service, models: Path, tmp_path: Path) -> None:
    """Of several ports on one release, `pull` takes the one without a dtype of its own, however many came later."""
    for command in (
        ["release", "add", "plain", "v1", "--from", models / "v1", "--wait"],
        ["patch", "push", "plain/tone", models / "patch", "--family", "plain", "--trained-on", "v1"],
        ["port", "plain/tone", "--to", "v1", "--json"],
        ["port", "plain/tone", "--to", "v1", "--dtype", "float16"],
        ["port", "plain/tone", "--to", "v1", "--dtype", "bfloat16"],
    ):
        done = invoke(*command, **service.variables())
        assert done.exit_code == 0, done.output
    pulled = invoke("pull", "plain/tone", "--on", "v1", tmp_path / "out", "--no-verify", **service.variables())
    assert pulled.exit_code == 0, pulled.output
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "float32"


def test_a_push_sends_only_what_it_announced(service: Service, models: Path, tmp_path: Path) -> None:
    """Whoever answers in a registry's place gets no other file of this machine, and the token goes nowhere else."""
    (tmp_path / "secret").write_text("mine")
    asked = {"path": str(tmp_path / "secret"), "size": 4, "received": 0, "direct": False, "url": "http://127.0.0.1:9/x"}
    draft = {"id": "ver_1", "state": "draft", "total_bytes": 4, "uploads": [asked]}
    answers: dict[str, Any] = {
        "/api/v1/families/said/releases/v1": {"state": "ready"}, "/api/v1/patches/acme/tone": {}, "/api/v1/patches": {},
        "/api/v1/patches/acme/tone/versions": draft,
    }  # fmt: skip
    seen = []

    def answer(path: str) -> tuple[int, str, bytes]:
        seen.append(path)
        return 200, "application/json", json.dumps(answers.get(path, {})).encode()

    with running_server(answer) as variables:
        command = ["patch", "push", "acme/tone", models / "patch", "--family", "said", "--trained-on", "v1"]
        ended = invoke(*command, **variables)
    assert (ended.exit_code, ended.stderr.endswith("[push.path]\n")) == (1, True), ended.stderr
    assert seen[-1] == "/api/v1/patches/acme/tone/versions"


def test_commands_to_copy_hold_nothing_that_a_shell_runs(tmp_path: Path) -> None:
    """Pasted into a shell, the printed variables get the very texts that the registry sent."""
    value = f"$(touch {tmp_path}/a) `touch {tmp_path}/b` '\"; touch {tmp_path}/c"
    environment = {"HF_TOKEN": "$PORTLLM_TOKEN", "BASE": value, f"X; touch {tmp_path}/d #": "", "URL": "$PORTLLM_URL$(id)"}
    launch = {"environment": environment, "commands": [["echo", value]]}
    option = {"name": "vllm", "engine": "vllm", "mode": "adapter", "servable": True, "reasons": [], "launches": [launch]}
    row = {"patch": "a/b", "version": 1, "release": "v1", "state": "ready", "servable": True, "options": [option]}
    with running_server(lambda _: (200, "application/json", json.dumps(row).encode())) as variables:
        done = invoke("serving", "prt_1", **variables)
    assert done.exit_code == 0, done.output
    pasted = "\n".join(line.strip() for line in done.stdout.splitlines() if line.startswith("  "))
    ran = subprocess.run(
        ["bash", "-c", f'{pasted}\nprintf "%s" "$HF_TOKEN|$BASE|$URL"'], capture_output=True, text=True, check=False,
        env={"PORTLLM_TOKEN": "mine"},
    )  # fmt: skip
    assert not list(tmp_path.iterdir())
    assert ran.stdout == f"{value}\nmine|{value}|$PORTLLM_URL$(id)"

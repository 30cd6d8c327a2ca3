"""The directory that `portllm pull` fills: one call at a time, nothing left where the disk is full; and ports that are held."""

import json
from collections import namedtuple
from pathlib import Path

import pytest

from tests.support.hostile_registry import CONTENT, one_port_registry, running_server
from tests.support.service_process import Service, invoke, run

Usage = namedtuple("Usage", "total used free")
STATE = {".portllm-pull.json": '{"fingerprint": "f"}'}


def test_two_pulls_into_one_directory(tmp_path: Path) -> None:
    """The second is refused while the first is in the middle of a file, and takes nothing from it."""
    command = ["pull", "acme/tone", "--on", "v1", tmp_path / "out", "--no-verify", "--json"]
    ordinary, second = one_port_registry("model.safetensors"), []

    def answer(asked: str) -> tuple[int, str, bytes]:
        if asked.endswith("/model.safetensors") and not second:
            second.append(run(*command, **variables))
        return ordinary(asked)

    with running_server(answer) as variables:
        first = invoke(*command, **variables)
    assert first.exit_code == 0, first.output
    assert second[0].returncode == 1
    assert second[0].stderr.endswith("[pull.busy]\n"), second[0].stderr
    assert second[0].stderr.count("\n") == 1
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == {"model.safetensors": CONTENT}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_keeps_what_an_earlier_pull_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says where that is, and takes it up when there is space."""
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    for name, text in {**STATE, "model.safetensors": CONTENT[:4].decode()}.items():
        (partial / name).write_text(text)
    monkeypatch.setattr("app.cli.partial_download.shutil.disk_usage", lambda _: Usage(100, 98, 2))
    with running_server(one_port_registry("model.safetensors")) as variables:
        ended = invoke("pull", "acme/tone", "--on", "v1", tmp_path / "out", **variables)
    assert ended.exit_code == 1
    assert ended.stderr.endswith("[output.no_space]\n")
    assert f"needs {len(CONTENT) - 4} bytes; 2 are free" in ended.stderr
    assert f"what has arrived is kept in {partial}" in ended.stderr
    assert (partial / "model.safetensors").read_bytes() == CONTENT[:4]


def test_a_full_disk_keeps_nothing_of_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier pull of another model left is thrown away, and nothing takes its place."""
    partial = tmp_path / ".out.partial"
    (partial / "sub").mkdir(parents=True)
    (partial / "sub/model.safetensors").write_bytes(b"other")
    monkeypatch.setattr("app.cli.partial_download.shutil.disk_usage", lambda _: Usage(100, 98, 2))
    with running_server(one_port_registry("model.safetensors")) as variables:
        ended = invoke("pull", "acme/tone", "--on", "v1", tmp_path / "out", **variables)
    assert "nothing was left behind" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_a_held_port_wants_approval(service: Service, models: Path, tmp_path: Path) -> None:
    """By name and by id; what the sentence names makes it ready."""
    env = service.variables()
    for command, code in (
        (["release", "add", "heldback", "v1", "--from", models / "v1", "--wait"], 0),
        (["patch", "push", "heldback/tone", models / "patch", "--family", "heldback", "--trained-on", "unknown"], 0),
        (["port", "heldback/tone", "--to", "v1"], 1),
    ):
        done = invoke(*command, **env)
        assert done.exit_code == code, done.output
    port = json.loads(invoke("show", "heldback/tone", "--json", **env).stdout)["ports"][0]["id"]
    for words in (["heldback/tone", "--on", "v1"], [port]):
        ended = invoke("pull", *words, tmp_path / "out", **env)
        assert ended.exit_code == 1
        assert ended.stderr.endswith("[port.not_ready]\n"), ended.stderr
        assert f"portllm approve {port} --reason" in ended.stderr
    assert invoke("approve", port, "--reason", "known", **env).exit_code == 0
    assert invoke("pull", "heldback/tone", "--on", "v1", tmp_path / "out", "--no-verify", **env).exit_code == 0

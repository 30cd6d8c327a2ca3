"""What is refused leaves nothing that nobody can delete; where it must, the sentence says so."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.service_process import Service, invoke


@pytest.fixture(scope="module")
def published(service: Service, models: Path) -> Path:
    """Families left (v1) and left-wide (w1, another shape); returns the directory of models."""
    for family, name, directory in (("left", "v1", "v1"), ("left-wide", "w1", "wide")):
        done = invoke("release", "add", family, name, "--from", models / directory, "--wait", **service.variables())
        assert done.exit_code == 0, done.output
    return models


def test_a_family_is_not_made_for_what_can_be_refused_before(service: Service, models: Path) -> None:
    """A name that is none, and a parent that a new family cannot have."""
    env = service.variables()
    for words, code in ((["7"], "request.name"), (["v1", "--parent", "v0"], "release.parent")):
        ended = invoke("release", "add", "ghostly", *words, "--from", models / "v1", **env)
        assert (ended.exit_code, ended.stderr.endswith(f"[{code}]\n")) == (1, True), ended.output
    assert "ghostly" not in invoke("ls", "families", "--json", **env).stdout


def test_a_family_that_stays_is_named(service: Service) -> None:
    """Only the service knows which directories it may read: the family is there, and the next command uses it."""
    env = service.variables()
    first = invoke("release", "add", "haunted", "v1", "--from", "/etc", **env)
    assert first.exit_code == 1
    assert first.stderr.endswith("[release.root]\n")
    assert "The family 'haunted' was made for it and stays" in first.stderr
    second = invoke("release", "add", "haunted", "v1", "--from", "/etc", **env)
    assert "was made" not in second.stderr


@pytest.mark.parametrize(
    ("damage", "trained_on", "code"),
    [
        ("dora", "v1", "adapter.dora"),
        ("truncated", "v1", "header.truncated"),
        ("without configuration", "v1", "adapter.missing_file"),
        ("", "v9", "release.unknown"),
        ("", "v2", "release.not_ready"),
    ],
)
def test_a_patch_is_not_made_for_what_is_refused(
    service: Service, published: Path, tmp_path: Path, damage: str, trained_on: str, code: str
) -> None:
    """What the directory and the named release tell is looked at before anything is sent."""
    patch = shutil.copytree(published / "patch", tmp_path / "patch")
    if damage == "dora":
        config = json.loads((patch / "adapter_config.json").read_text())
        (patch / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    elif damage == "truncated":
        weights = (patch / "adapter_model.safetensors").read_bytes()
        (patch / "adapter_model.safetensors").write_bytes(weights[:-100])
    elif damage == "without configuration":
        (patch / "adapter_config.json").unlink()
    if trained_on == "v2":
        _reject(service)
    env = service.variables()
    ended = invoke("patch", "push", "left/refused", patch, "--family", "left", "--trained-on", trained_on, **env)
    assert (ended.exit_code, ended.stderr.endswith(f"[{code}]\n")) == (1, True), ended.output
    assert "[patch.unknown]" in invoke("show", "left/refused", **env).stderr


def test_a_patch_that_stays_is_named(service: Service, published: Path) -> None:
    """Whether it fits the release is known only where the release is."""
    command = ["patch", "push", "left/wide", published / "patch", "--family", "left-wide", "--trained-on", "w1"]
    first = invoke(*command, **service.variables())
    assert first.exit_code == 1
    assert "The patch left/wide was made for it and stays, without a version" in first.stderr
    assert first.stderr.endswith("[port.shape]\n")
    assert "was made" not in invoke(*command, **service.variables()).stderr


def _reject(service: Service) -> None:
    """Registers left/v2, which is no model and so is rejected."""
    empty = service.root / "releases/left-empty"
    empty.mkdir(exist_ok=True)
    ended = invoke("release", "add", "left", "v2", "--from", empty, "--wait", "--json", **service.variables())
    assert ended.exit_code == 1

"""The image's and the installation's descriptions: valid, and without secrets of their own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def test_dockerfile() -> None:
    """hadolint has nothing to say, but for versions of Debian's packages, of which there are none."""
    ended = subprocess.run([str(BIN / "hadolint"), "docker/Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


def test_compose_file() -> None:
    """It is one by the compose specification."""
    command = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, object]]:
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])


def test_settings_are_ours(services: dict[str, dict[str, object]]) -> None:
    """Every PORTLLM_ variable is a setting, or the command line's address and token."""
    known = {f"PORTLLM_{name.upper()}" for name in Settings.model_fields} | {"PORTLLM_URL", "PORTLLM_TOKEN"}
    named = {
        name for service in services.values() for name in dict(service.get("environment", {})) if name.startswith("PORTLLM_")
    }
    assert named
    assert named <= known


def test_the_example_names_every_variable() -> None:
    """What must be given stands empty, all else as a comment with the default that docker-compose.yml has."""
    text = (ROOT / "docker-compose.yml").read_text()
    asked = re.findall(r"\$\{(\w+):([-?])([^}]*)\}", text)
    required = {name: "" for name, mark, _ in asked if mark == "?"}
    optional = {name: default for name, mark, default in asked if mark == "-"}
    lines = (ROOT / "docker/env.example").read_text().splitlines()
    pairs = [line.partition("=") for line in lines if re.match(r"#?[A-Z]\w+=", line)]
    assert {name: value for name, _, value in pairs if not name.startswith("#")} == required
    assert {name.removeprefix("#"): value for name, _, value in pairs if name.startswith("#")} == optional


def test_no_secret_has_a_default() -> None:
    """Whatever is secret must be given."""
    text = (ROOT / "docker-compose.yml").read_text()
    for name in ("POSTGRES_PASSWORD", "PORTLLM_SECRET_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert f"${{{name}:?" in text
        assert f"${{{name}:-" not in text

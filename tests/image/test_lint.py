"""The image's and the installation's descriptions: valid, and without secrets of their own."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings
from tests.support.paths import ROOT

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
def services() -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])


def test_settings_are_ours(services: dict[str, dict[str, Any]]) -> None:
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


def test_the_image_is_small_and_confined(services: dict[str, dict[str, Any]]) -> None:
    """Its last stage holds no tool that fetches or builds, runs as a number, and every program is named without a shell."""
    stages = re.split(r"^FROM ", (ROOT / "docker/Dockerfile").read_text(), flags=re.MULTILINE)
    assert [stage.split()[0] for stage in stages[1:]] == ["${BASE}", "${BASE}"]
    last = stages[-1]
    assert "pip uninstall" in last
    assert not re.search(r"apt-get|pip install|curl|wget", last)
    assert re.findall(r"^USER (.+)$", last, re.MULTILINE) == ["10001:10001"]
    commands = re.findall(r"^(?:ENTRYPOINT|CMD|HEALTHCHECK .*CMD) (.+)$", last, re.MULTILINE)
    assert len(commands) == 3
    assert all(command.startswith("[") for command in commands)
    for name, service in services.items():
        assert "no-new-privileges:true" in service["security_opt"], name


def test_every_setting_passes_and_every_container_has_limits(services: dict[str, dict[str, Any]]) -> None:
    """Settings of .env reach the service and the workers; memory, processors, processes and logs are bounded everywhere."""
    for name, service in services.items():
        assert {"mem_limit", "cpus", "pids_limit"} <= service.keys(), name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
    for name in ("api", "worker-1", "worker-2", "migrate"):
        assert services[name]["env_file"] == [{"path": ".env", "required": False}]


def test_no_directory_is_made_for_root(services: dict[str, dict[str, Any]]) -> None:
    """Volumes are named, or directories of the host that must exist."""
    named = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["volumes"].keys()
    for service in services.values():
        for volume in service.get("volumes", ()):
            if isinstance(volume, str):
                assert volume.partition(":")[0] in named
            else:
                assert volume["bind"] == {"create_host_path": False}


def test_cpu_build_needs_no_argument() -> None:
    """The index that CPU builds of torch come from has a default."""
    (index,) = re.findall(r"^ARG TORCH_INDEX=(.*)$", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE)
    assert index.startswith("https://")
    assert f"${{TORCH_INDEX:-{index}}}" in (ROOT / "docker-compose.yml").read_text()


def test_the_build_sees_only_what_it_copies() -> None:
    """.dockerignore lets in what docker/Dockerfile takes, and nothing else; every one of these is there."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    assert rules[0] == "*"
    copies = re.findall(r"^COPY (?:--chmod=\S+ )?([^-].*) \S+$", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE)
    assert {name for line in copies for name in line.split()} == let_in
    assert all((ROOT / name).exists() for name in let_in)

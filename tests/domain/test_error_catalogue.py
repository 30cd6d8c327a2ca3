"""The catalogue of codes: each is asserted by some test, and those of other surfaces are reached through them."""

import json
import re
import subprocess
import sys
from pathlib import Path

from app.domain.errors import CATALOGUE
from tests.support.fixtures import World

TESTS = Path(__file__).parent.parent


def test_every_code_is_asserted_somewhere() -> None:
    """A code that no test names may be one that nothing can reach."""
    quoted = set()
    for file in TESTS.rglob("test_*.py"):
        quoted |= set(re.findall(r'"([a-z_]+\.[a-z_]+)"', file.read_text()))
    assert set(CATALOGUE) - quoted == set()


def test_pull_of_what_was_never_ported(world: World, live: str, tmp_path: Path) -> None:
    """port.none is said by the command line, which reads by name: with the command that makes the port."""
    patch = world.patch()
    world.acme.publish(patch, world.models.patch)
    found = subprocess.run(
        [sys.executable, "-m", "app.cli.main", "pull", patch, "--on", "v2", str(tmp_path / "out"), "--json"],
        env={"PORTLLM_URL": live, "PORTLLM_TOKEN": str(world.acme.token), "PATH": ""},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert found.returncode != 0
    assert json.loads(found.stdout)["error"]["code"] == "port.none", found
    assert f"portllm port {patch} --to v2" in found.stdout + found.stderr
    assert not (tmp_path / "out").exists()

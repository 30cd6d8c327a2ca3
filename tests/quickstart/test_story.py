"""The quickstart itself, small: the command a newcomer types first."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.core.local import merge

COMMAND = [sys.executable, "-m", "app.cli.main", "quickstart", "--small", "--dir"]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A whole run: its directory and what it printed."""
    work = tmp_path_factory.mktemp("quickstart") / "run"
    # One thread: the matrices are tiny, and threads that wait for each other on busy cores take twice as long.
    environment = {**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*COMMAND, str(work)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return work, done.stdout


def test_it_prints_the_table(played: tuple[Path, str]) -> None:
    """Four releases; the patch does what the base alone cannot; the last release also with a patch trained afresh."""
    rows = re.findall(r"│ (v\d) +│ +([\d.]+)% │ +([\d.]+)% │ +([\d.]+)% │ +([\d.]*)%? +│? *([\d.]*)", played[1])
    assert [row[0] for row in rows] == ["v1", "v2", "v3", "v4"]
    drifts, alone, ported = ([float(row[i]) for row in rows] for i in (1, 2, 3))
    assert drifts[0] == 0.0
    assert drifts == sorted(drifts)
    assert max(alone) <= 2.0
    assert max(ported) > 25.0
    assert rows[3][4] != ""


def test_it_names_the_next_commands(played: tuple[Path, str]) -> None:
    """What a newcomer can type next, with real paths."""
    assert f"portllm serve --data {played[0]}/registry --allow-root {played[0]}/releases" in played[1]
    assert "portllm pull acme/file-kinds --on v4" in played[1]


def test_merged_models_came_through_the_service(played: tuple[Path, str], tmp_path: Path) -> None:
    """What was pulled is what the offline merge writes, and loads with its tokenizer."""
    work = played[0]
    merge(work / "releases" / "v3", work / "patch", tmp_path / "merged")
    for path in (tmp_path / "merged").iterdir():
        assert (work / "merged" / "v3" / path.name).read_bytes() == path.read_bytes()
    assert AutoModelForCausalLM.from_pretrained(work / "merged" / "v3").config.model_type == "llama"
    assert AutoTokenizer.from_pretrained(work / "merged" / "v3").eos_token


def test_it_leaves_a_foreign_directory_alone(tmp_path: Path) -> None:
    """A directory that no quickstart made is not emptied."""
    (tmp_path / "thesis.txt").write_text("years of work")
    done = subprocess.run([*COMMAND, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "choose another directory" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"

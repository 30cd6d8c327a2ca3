"""The quickstart itself, small: the command a newcomer types first."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.cli.quickstart.corpus import Corpus, Example, gather, sample_examples
from app.cli.quickstart.evaluate import accuracy, compare, drift, heldout_loss
from app.cli.quickstart.models import load_model
from app.cli.quickstart.scale import Scale
from app.cli.quickstart.task import answer, prompt
from app.core.offline import merge
from tests.support.service_process import invoke

SMALL = Scale.small()
# A minute of two quiet cores; the machine may be busy with the rest of the suite.
pytestmark = pytest.mark.timeout(900)
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
    done = invoke("quickstart", "--small", "--dir", tmp_path)
    assert done.exit_code == 1
    assert "choose another directory" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    done = invoke("quickstart", "--small", "--dir", tmp_path / "thesis.txt")
    assert done.exit_code == 1
    assert "Not a directory" in done.stderr


@dataclass(frozen=True)
class Learned:
    """What the run trained, and held-out examples of what it trained for."""

    corpus: Corpus
    examples: list[Example]
    v1: Path
    v2: Path
    patch: Path


@pytest.fixture(scope="module")
def learned(played: tuple[Path, str]) -> Learned:
    work, corpus = played[0], gather(SMALL)
    examples = sample_examples(corpus.heldout, corpus.kinds, SMALL.heldout_examples, SMALL.snippet_chars, SMALL.seed)
    return Learned(corpus, examples, work / "releases" / "v1", work / "releases" / "v2", work / "patch")


def test_the_patch_does_what_the_base_cannot(learned: Learned) -> None:
    chance = 1 / len(learned.corpus.kinds)
    assert accuracy(learned.v1, learned.examples) <= 0.02
    assert accuracy(learned.v1, learned.examples, adapter_dir=learned.patch) > 1.5 * chance


def test_the_patch_works_on_a_later_release_that_cannot_do_it_alone(learned: Learned) -> None:
    chance = 1 / len(learned.corpus.kinds)
    assert accuracy(learned.v2, learned.examples) <= 0.02
    assert accuracy(learned.v2, learned.examples, adapter_dir=learned.patch) > 1.5 * chance


def test_a_merged_model_scores_as_the_patched_one(learned: Learned, tmp_path: Path) -> None:
    model = PeftModel.from_pretrained(load_model(learned.v1), learned.patch)
    model.merge_and_unload().save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(learned.v1).save_pretrained(tmp_path)
    patched = accuracy(learned.v1, learned.examples, adapter_dir=learned.patch)
    assert accuracy(tmp_path, learned.examples) == pytest.approx(patched, abs=0.02)


def test_accuracy_is_what_generation_gives(learned: Learned) -> None:
    """One pass over all answer tokens must agree with token by token generation."""
    tokenizer = AutoTokenizer.from_pretrained(learned.v1)
    model = PeftModel.from_pretrained(load_model(learned.v1), learned.patch).eval()
    right = 0
    for example in learned.examples[:40]:
        asked = tokenizer(prompt(example.text), return_tensors="pt")
        made = model.generate(**asked, max_new_tokens=8, do_sample=False)[0, asked["input_ids"].shape[1] :]
        right += tokenizer.decode(made) == answer(example.label) + tokenizer.eos_token
    assert accuracy(learned.v1, learned.examples[:40], adapter_dir=learned.patch) == pytest.approx(right / 40, abs=0.026)


def test_releases_drift_as_a_vendor_lets_them(learned: Learned) -> None:
    found = compare(learned.v1, learned.v2)
    assert 0.005 < found.drift < 0.3
    assert 0.9 < found.cos_min < found.cos_max < 1
    assert drift(learned.v1, learned.v2) == found.drift
    assert drift(learned.v1, learned.v1) == 0


def test_continued_pretraining_learns_its_mixture(learned: Learned) -> None:
    docs = [document for document in learned.corpus.heldout if document.kind == "docs"]
    before = heldout_loss(learned.v1, docs, window=SMALL.window)
    assert heldout_loss(learned.v2, docs, window=SMALL.window) < before < 6.6  # ln(768): what knowing nothing costs

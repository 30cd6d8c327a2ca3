"""Releases and patches, trained for two steps: what is so however long they are trained. What they learn: test_story."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from app.cli.quickstart.corpus import MIXTURES, Corpus, Example, gather, sample_examples
from app.cli.quickstart.evaluate import accuracy
from app.cli.quickstart.models import LINEAR_MODULES, continue_pretraining, train_base, train_patch
from app.cli.quickstart.scale import Scale
from app.cli.quickstart.task import IGNORED, encode, prompt
from app.cli.quickstart.tokenizer import token_streams, train_tokenizer

SMALL = Scale.small()
TINY = dataclasses.replace(SMALL, base_steps=2, continue_steps=2, patch_steps=2)


@dataclass(frozen=True)
class Story:
    """What the quickstart trains, in hardly any steps; made once for all tests here."""

    corpus: Corpus
    streams: Mapping[str, torch.Tensor]
    v1: Path
    v2: Path
    patch: Path
    reports: list[tuple[int, int, str]]
    looked_up: list[str]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    work = tmp_path_factory.mktemp("story")
    corpus = gather(SMALL)
    tokenizer = train_tokenizer(corpus, SMALL)
    streams = token_streams(corpus, tokenizer)
    reports: list[tuple[int, int, str]] = []
    looked_up: list[str] = []
    resolve = socket.getaddrinfo

    def watched(host: str, *args: object, **kwargs: object) -> object:
        looked_up.append(host)
        return resolve(host, *args, **kwargs)

    patcher = pytest.MonkeyPatch()
    patcher.setattr(socket, "getaddrinfo", watched)
    train_base(work / "v1", tokenizer, streams, MIXTURES["v1"], TINY, progress=lambda *report: reports.append(report))
    continue_pretraining(work / "v1", work / "v2", streams, MIXTURES["v2"], TINY)
    train_patch(work / "v1", work / "patch", corpus.train, corpus.kinds, TINY, base_name="base/snippets")
    examples = sample_examples(corpus.heldout, corpus.kinds, SMALL.heldout_examples, SMALL.snippet_chars, SMALL.seed)
    accuracy(work / "v1", examples[:1], adapter_dir=work / "patch")
    patcher.undo()
    return Story(corpus, streams, work / "v1", work / "v2", work / "patch", reports, looked_up)


def digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def test_the_patch_covers_all_linear_layers_and_nothing_else(story: Story) -> None:
    config = json.loads((story.patch / "adapter_config.json").read_text())
    assert config["r"] == 8
    assert config["base_model_name_or_path"] == "base/snippets"
    tensors = load_file(story.patch / "adapter_model.safetensors")
    places = {tuple(name.split(".")[-5:-2][i] for i in (0, 2)) for name in tensors}
    assert places == {(str(layer), module) for layer in range(SMALL.layers) for module in LINEAR_MODULES}
    assert len(tensors) == 2 * len(LINEAR_MODULES) * SMALL.layers
    assert all(bool(tensor.any()) for tensor in tensors.values())


def test_releases_are_bfloat16_and_keep_names_and_tokenizer(story: Story) -> None:
    old, new = (load_file(directory / "model.safetensors") for directory in (story.v1, story.v2))
    assert old.keys() == new.keys()
    assert {tensor.dtype for tensor in (*old.values(), *new.values())} == {torch.bfloat16}
    assert "lm_head.weight" in old
    before, after = digests(story.v1), digests(story.v2)
    assert before.keys() == after.keys()
    for name in before:
        assert (before[name] == after[name]) == (name != "model.safetensors"), name


def test_progress_counts_every_step(story: Story) -> None:
    assert [report[:2] for report in story.reports] == [(n + 1, TINY.base_steps) for n in range(TINY.base_steps)]
    assert story.reports[-1][2].startswith("loss ")


def test_training_repeats_itself(story: Story, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(story.v1)
    for run in ("one", "two"):
        train_base(tmp_path / run / "v1", tokenizer, story.streams, MIXTURES["v1"], TINY)
        continue_pretraining(tmp_path / run / "v1", tmp_path / run / "v2", story.streams, MIXTURES["v2"], TINY)
        arguments = (story.corpus.train, story.corpus.kinds, TINY)
        train_patch(tmp_path / run / "v1", tmp_path / run / "patch", *arguments, base_name="base/snippets")
    for directory in ("v1", "v2", "patch"):
        assert digests(tmp_path / "one" / directory) == digests(tmp_path / "two" / directory)


def test_nothing_is_looked_up_on_the_network(story: Story) -> None:
    """PEFT asks the Hub about the base model's name unless told not to."""
    assert story.looked_up == []


def test_no_path_of_this_machine_is_published(story: Story) -> None:
    for directory in (story.v1, story.v2, story.patch):
        for path in directory.iterdir():
            assert str(story.v1.parent).encode() not in path.read_bytes(), path.name


def test_loss_lies_on_the_label_and_its_end_only(story: Story) -> None:
    tokenizer = AutoTokenizer.from_pretrained(story.v1)
    batch = encode([Example("import os", "python"), Example("a longer snippet of text\n", "docs")], tokenizer)
    for row, label in enumerate(("python", "docs")):
        kept = batch.labels[row] != IGNORED
        assert tokenizer.decode(batch.input_ids[row][kept]) == f" {label}{tokenizer.eos_token}"
        assert bool(batch.attention_mask[row][kept].all())
    assert bool((batch.input_ids[0][batch.attention_mask[0] == 0] == tokenizer.pad_token_id).all())


def test_the_chat_template_asks_as_the_task_does(story: Story) -> None:
    tokenizer = AutoTokenizer.from_pretrained(story.v1)
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "import os"}], tokenize=False, add_generation_prompt=True)
    assert asked == prompt("import os")


@pytest.mark.parametrize("text", ["import os\n\n\n", "café — ", "a  b\tc", "<|end|>"])
def test_the_tokenizer_loses_nothing(story: Story, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(story.v1)
    assert len(tokenizer) == SMALL.vocab_size
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text

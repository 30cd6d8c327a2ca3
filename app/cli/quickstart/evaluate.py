"""Measures the quickstart's models: accuracy and loss on held-out text, and how far releases lie apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import safe_open
from torch import nn
from transformers import AutoTokenizer

from app.cli.quickstart.corpus import Document, Example
from app.cli.quickstart.models import load_model
from app.cli.quickstart.quiet import quiet
from app.cli.quickstart.task import IGNORED, encode


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the matrices of one release relate to those of another.

    Attributes:
        drift: ||W' - W||_F / ||W||_F over all matrices together.
        cos_min, cos_max: least and greatest cosine between a matrix and its counterpart.
    """

    drift: float
    cos_min: float
    cos_max: float


@torch.inference_mode()
def accuracy(model_dir: Path, examples: Sequence[Example], *, adapter_dir: Path | None = None, batch_size: int = 64) -> float:
    """Share of snippets for which greedy generation gives the label, the end token, and nothing else.

    The vocabulary is not restricted to the labels. All tokens of an answer are checked in one pass: generation that
    was right so far goes on from the right prefix, so it is right exactly where every next token is the most likely.

    Args:
        model_dir: a release or a merged model with its tokenizer; computed in float32, whatever it is stored in.
        examples: held-out snippets, at least one.
        adapter_dir: a PEFT patch to apply to the model without merging.
        batch_size: snippets computed at once.

    Returns:
        0 to 1.
    """
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model: nn.Module = load_model(model_dir)
    if adapter_dir is not None:
        with quiet():
            model = PeftModel.from_pretrained(model, adapter_dir)
    model.eval()
    # Snippets of like length together: less padding to compute.
    ordered = sorted(examples, key=lambda example: len(example.text))
    right = 0
    for at in range(0, len(ordered), batch_size):
        batch = encode(ordered[at : at + batch_size], tokenizer)
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        targets = batch.labels[:, 1:]
        hits = (logits[:, :-1].argmax(-1) == targets) | (targets == IGNORED)
        right += int(hits.all(dim=1).sum())
    return right / len(ordered)


@torch.inference_mode()
def heldout_loss(model_dir: Path, documents: Sequence[Document], *, window: int, batch_size: int = 32) -> float:
    """Mean loss per token, in nats, over the first window of every document that is long enough.

    Args:
        model_dir: a release or a merged model with its tokenizer.
        documents: the held-out side of the corpus.
        window: tokens of each document.
        batch_size: documents computed at once.

    Returns:
        The loss; NaN where no document has `window` tokens.
    """
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = load_model(model_dir).eval()
    encoded = tokenizer([d.text for d in documents], add_special_tokens=False, verbose=False)["input_ids"]
    rows = [ids[:window] for ids in encoded if len(ids) >= window]
    total = 0.0
    for at in range(0, len(rows), batch_size):
        ids = torch.tensor(rows[at : at + batch_size])
        total += float(model(input_ids=ids, labels=ids).loss) * len(ids)
    return total / len(rows) if rows else math.nan


def drift(dir_a: Path, dir_b: Path) -> float:
    """How far release b lies from release a: ||W' - W||_F / ||W||_F over all matrices."""
    return compare(dir_a, dir_b).drift


def compare(dir_a: Path, dir_b: Path) -> Comparison:
    """Compare every matrix of release b with that of release a, in float64.

    Args:
        dir_a: the older release.
        dir_b: the newer release.

    Returns:
        Drift and cosines; vectors, such as norms, are left out.

    Raises:
        KeyError: b lacks a matrix that a has.
    """
    newer = dict(_matrices(dir_b))
    change = size = 0.0
    cosines: list[float] = []
    for name, old in _matrices(dir_a):
        new = newer[name]
        change += float((new - old).square().sum())
        size += float(old.square().sum())
        cosines.append(float((new * old).sum() / (new.norm() * old.norm())))
    return Comparison(math.sqrt(change / size), min(cosines), max(cosines))


def _matrices(model_dir: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every two-dimensional tensor of a checkpoint, in float64."""
    for shard in sorted(model_dir.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                tensor = file.get_tensor(name)
                if tensor.dim() == 2:
                    yield name, tensor.double()

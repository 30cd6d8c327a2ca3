"""The task of the patch: say which kind of file a snippet is from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from app.cli.quickstart.corpus import Example
from app.cli.quickstart.tokenizer import ANSWER_MARKER

IGNORED = -100
"""The target of positions that carry no loss, as torch's cross entropy has it."""


@dataclass(frozen=True, slots=True)
class LabelBatch:
    """Examples as tensors, padded on the right, all of shape (examples, tokens), int64.

    Attributes:
        input_ids: snippet, marker, label, end token, padding.
        attention_mask: 1 where there is a token, 0 on padding.
        labels: the token itself on the label and its end token, `IGNORED` elsewhere.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor


def prompt(snippet: str) -> str:
    """The question about a snippet, as the tokenizer's chat template writes it too."""
    return snippet + ANSWER_MARKER


def answer(label: str) -> str:
    """The text a model has to generate for a label, before its end token."""
    return " " + label


def encode(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> LabelBatch:
    """Encode examples for training or for measuring.

    Args:
        examples: at least one.
        tokenizer: of the model; it splits a word from the space-led word that follows, so that question and answer
            can be encoded apart.

    Returns:
        One batch with a row per example, in the same order.
    """
    prompts = tokenizer([prompt(e.text) for e in examples], add_special_tokens=False)["input_ids"]
    answers = tokenizer([answer(e.label) for e in examples], add_special_tokens=False)["input_ids"]
    ends = [tokenizer.eos_token_id]
    width = max(len(p) + len(a) + 1 for p, a in zip(prompts, answers, strict=True))
    input_ids = torch.full((len(examples), width), tokenizer.pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, IGNORED)
    for row, (question, word) in enumerate(zip(prompts, answers, strict=True)):
        ids = torch.tensor(question + word + ends)
        input_ids[row, : len(ids)] = ids
        attention_mask[row, : len(ids)] = 1
        labels[row, len(question) : len(ids)] = ids[len(question) :]
    return LabelBatch(input_ids, attention_mask, labels)

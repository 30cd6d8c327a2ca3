"""Every size of the quickstart in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[int, int, str], None]
"""Called as `progress(done, total, note)`; `done` never decreases within a stage and ends at `total`."""


def silent(done: int, total: int, note: str) -> None:
    """Ignore progress: the default where nobody looks."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The sizes of one quickstart run; units are in the names or stated here.

    Attributes:
        seed: seeds the choice of files, the split, the weights and the order of batches.
        chars_per_kind: characters of text gathered for each kind of file, train and held-out together.
        chars_per_file: characters used of one file, counted from its start.
        heldout_share: share of each kind's files that is held out.
        vocab_size: entries of the byte-level BPE vocabulary, special tokens included.
        hidden_size, layers, heads, kv_heads, intermediate_size: the Llama architecture.
        initial_spread: standard deviation of the initial weights; the usual 0.02 belongs to models ten times as wide
            and leaves these unable to be sure of a token.
        window: tokens in one pretraining sequence.
        batch: sequences in one pretraining step.
        base_steps, base_lr: pretraining of the first release from random weights.
        continue_steps, continue_lr: continued pretraining of each later release.
        patch_rank, patch_alpha: LoRA rank and alpha (scaling is alpha / rank).
        patch_steps, patch_batch, patch_lr: fine-tuning of a patch.
        snippet_chars: characters in one snippet to be labelled.
        heldout_examples: held-out snippets that an accuracy is measured on, all kinds together.
    """

    seed: int
    chars_per_kind: int
    chars_per_file: int
    heldout_share: float
    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    intermediate_size: int
    initial_spread: float
    window: int
    batch: int
    base_steps: int
    base_lr: float
    continue_steps: int
    continue_lr: float
    patch_rank: int
    patch_alpha: int
    patch_steps: int
    patch_batch: int
    patch_lr: float
    snippet_chars: int
    heldout_examples: int

    @classmethod
    def full(cls) -> Scale:
        """What `make quickstart` runs: about 1 M parameters, minutes on 2 cores."""
        return cls(
            seed=2410,
            chars_per_kind=500_000,
            chars_per_file=12_000,
            heldout_share=0.2,
            vocab_size=1536,
            hidden_size=128,
            layers=4,
            heads=4,
            kv_heads=2,
            intermediate_size=352,
            initial_spread=0.05,
            window=128,
            batch=16,
            base_steps=220,
            base_lr=3e-3,
            continue_steps=40,
            continue_lr=5e-4,
            patch_rank=8,
            patch_alpha=16,
            patch_steps=200,
            patch_batch=12,
            patch_lr=3e-3,
            snippet_chars=200,
            heldout_examples=480,
        )

    @classmethod
    def small(cls) -> Scale:
        """What CI runs: the same stages in seconds, with numbers that mean little."""
        return cls(
            seed=2410,
            chars_per_kind=160_000,
            chars_per_file=8_000,
            heldout_share=0.25,
            vocab_size=768,
            hidden_size=64,
            layers=3,
            heads=4,
            kv_heads=2,
            intermediate_size=176,
            initial_spread=0.05,
            window=128,
            batch=16,
            base_steps=120,
            base_lr=8e-3,
            continue_steps=15,
            continue_lr=5e-4,
            patch_rank=8,
            patch_alpha=16,
            patch_steps=120,
            patch_batch=8,
            patch_lr=6e-3,
            snippet_chars=160,
            heldout_examples=120,
        )

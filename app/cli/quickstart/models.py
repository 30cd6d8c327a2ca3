"""Trains what the quickstart registers: a first release, later releases, and LoRA patches.

A release is a directory as `save_pretrained` writes it, with weights in bfloat16 as vendors publish them; training
computes in float32. Each later release starts from the weights that its parent's directory holds, rounding included.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from app.cli.quickstart.corpus import Document, sample_examples
from app.cli.quickstart.quiet import quiet
from app.cli.quickstart.scale import Progress, Scale, silent
from app.cli.quickstart.task import encode

LINEAR_MODULES: tuple[str, ...] = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)
"""The seven linear layers of a Llama block, all of which a patch covers."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
_WARMUP_SHARE = 0.1
_GRADIENT_NORM = 1.0

Loss = Callable[[int], torch.Tensor]


def train_base(
    out_dir: Path,
    tokenizer: PreTrainedTokenizerFast,
    streams: Mapping[str, torch.Tensor],
    mixture: Mapping[str, float],
    scale: Scale,
    *,
    progress: Progress = silent,
) -> None:
    """Pretrain the first release from random weights.

    Args:
        out_dir: where the release is written; made if missing.
        tokenizer: saved with the release.
        streams: kind -> token ids, shape (tokens,), int64.
        mixture: kind -> share of windows.
        scale: the sizes.
        progress: told about every step.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=scale.hidden_size,
        intermediate_size=scale.intermediate_size,
        num_hidden_layers=scale.layers,
        num_attention_heads=scale.heads,
        num_key_value_heads=scale.kv_heads,
        max_position_embeddings=2 * scale.window,
        tie_word_embeddings=False,
        initializer_range=scale.initial_spread,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with _seeded(scale.seed):
        model = LlamaForCausalLM(config)
    _pretrain(model, streams, mixture, scale, scale.base_steps, scale.base_lr, scale.seed, progress)
    _save(model, out_dir)
    tokenizer.save_pretrained(out_dir)


def continue_pretraining(
    base_dir: Path,
    out_dir: Path,
    streams: Mapping[str, torch.Tensor],
    mixture: Mapping[str, float],
    scale: Scale,
    *,
    progress: Progress = silent,
) -> None:
    """Make a later release: pretrain all weights of a release further, on another mixture.

    Args:
        base_dir: the parent release.
        out_dir: where the new release is written; its name seeds the order of batches. Made if missing.
        streams: kind -> token ids, shape (tokens,), int64, encoded with the parent's tokenizer.
        mixture: kind -> share of windows.
        scale: the sizes.
        progress: told about every step.
    """
    model = load_model(base_dir)
    seed = random.Random(f"{scale.seed}:{out_dir.name}").getrandbits(32)
    _pretrain(model, streams, mixture, scale, scale.continue_steps, scale.continue_lr, seed, progress)
    _save(model, out_dir)
    for name in _TOKENIZER_FILES:
        if (base_dir / name).exists():
            shutil.copyfile(base_dir / name, out_dir / name)


def train_patch(
    base_dir: Path,
    out_dir: Path,
    documents: Sequence[Document],
    kinds: Sequence[str],
    scale: Scale,
    *,
    base_name: str,
    progress: Progress = silent,
) -> None:
    """Fine-tune a LoRA patch that labels snippets, and save it as PEFT does (weights in float32).

    Args:
        base_dir: the release to train on; its weights stay as they are.
        out_dir: where the patch is written; made if missing.
        documents: where snippets are cut from: the training side of the corpus.
        kinds: the labels.
        scale: the sizes.
        base_name: what the patch's configuration names as its base model.
        progress: told about every step.
    """
    tokenizer = AutoTokenizer.from_pretrained(base_dir)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=scale.patch_rank,
        lora_alpha=scale.patch_alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=list(LINEAR_MODULES),
    )
    with _seeded(scale.seed), quiet():
        base = load_model(base_dir)
        # PEFT would write this machine's path into configuration and card; a patch names what others can find.
        base.name_or_path = base.config._name_or_path = base_name
        model = get_peft_model(base, config)
    count = scale.patch_steps * scale.patch_batch
    examples = sample_examples(documents, kinds, count, scale.snippet_chars, scale.seed)

    def loss(step: int) -> torch.Tensor:
        batch = encode(examples[step * scale.patch_batch : (step + 1) * scale.patch_batch], tokenizer)
        return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss

    _train(model, loss, scale.patch_steps, scale.patch_lr, progress)
    # PEFT keeps the modules as a set, whose order differs between runs.
    model.peft_config["default"].target_modules = list(LINEAR_MODULES)
    # Left to itself, PEFT asks the Hugging Face Hub about that name to learn whether the vocabulary was resized.
    model.save_pretrained(out_dir, save_embedding_layers=False)


def load_model(model_dir: Path) -> LlamaForCausalLM:
    """Load a release or a merged model in float32, which holds every bfloat16 value exactly."""
    with quiet():
        return LlamaForCausalLM.from_pretrained(model_dir, dtype=torch.float32, local_files_only=True)


def _save(model: LlamaForCausalLM, out_dir: Path) -> None:
    """Write a release's weights and configuration in bfloat16; the model is converted in place."""
    with quiet():
        model.to(torch.bfloat16).save_pretrained(out_dir)


def _pretrain(
    model: LlamaForCausalLM,
    streams: Mapping[str, torch.Tensor],
    mixture: Mapping[str, float],
    scale: Scale,
    steps: int,
    lr: float,
    seed: int,
    progress: Progress,
) -> None:
    """Train all weights on windows of the mixture; kinds without a stream give their share to the others."""
    rng = random.Random(seed)
    kinds = [kind for kind in mixture if kind in streams]
    shares = [mixture[kind] for kind in kinds]

    def loss(_: int) -> torch.Tensor:
        rows = []
        for kind in rng.choices(kinds, shares, k=scale.batch):
            at = rng.randrange(len(streams[kind]) - scale.window)
            rows.append(streams[kind][at : at + scale.window])
        ids = torch.stack(rows)
        return model(input_ids=ids, labels=ids).loss

    _train(model, loss, steps, lr, progress)


def _train(model: nn.Module, loss: Loss, steps: int, lr: float, progress: Progress) -> None:
    """AdamW with warm-up and cosine decay to a tenth, over the parameters that want gradients."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    warmup = max(1, round(steps * _WARMUP_SHARE))
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=warmup)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - warmup), eta_min=lr / 10)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], [warmup])
    model.train()
    for step in range(steps):
        value = loss(step)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, _GRADIENT_NORM)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        progress(step + 1, steps, f"loss {value.item():.2f}")
    model.eval()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw initial weights from a seed of their own and leave torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield

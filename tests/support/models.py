"""Tiny real models and patches, written by transformers and PEFT themselves.

Everything is random by seed: the same arguments write the same values. No weight of a Llama block is square, so that a
transposed or misplaced tensor cannot go unnoticed.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CHAT_TEMPLATE = "{%- for message in messages -%}{{ message['role'] + ': ' + message['content'] + '\n' }}{%- endfor -%}"
_SIZES = {
    "vocab_size": 262, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip


def tiny_config(architecture: str = "llama", **overrides: Any) -> PreTrainedConfig:
    """The configuration of a model of about 100,000 parameters; `overrides` are fields of its configuration."""
    sizes: dict[str, Any] = dict(_SIZES)
    known = AutoConfig.for_model(architecture).to_dict()
    if "head_dim" in known:
        sizes["head_dim"] = 24
    if known.get("sliding_window"):
        sizes["sliding_window"] = 64
    return AutoConfig.for_model(architecture, **(sizes | overrides))


def make_base(
    path: Path,
    architecture: str = "llama",
    *,
    dtype: str = "bfloat16",
    seed: int = 0,
    max_shard_size: int | str | None = None,
    tokenizer: bool = False,
    **overrides: Any,
) -> Path:
    """Writes a random base model with save_pretrained.

    Args:
        path: the directory to write.
        architecture: a `model_type` of transformers.
        dtype: "float32", "float16" or "bfloat16".
        seed: of the weights.
        max_shard_size: where given, the size in bytes (or as text, "50KB") above which the checkpoint is split.
        tokenizer: True to put the tokenizer of `make_tokenizer` beside the weights.
        overrides: fields of the configuration.
    """
    config = tiny_config(architecture, **overrides)
    with _seeded(seed):
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():  # biases and norms start as zeros and ones: make them numbers too
                parameter.add_(torch.randn_like(parameter), alpha=0.01)
    limit = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
    model.to(DTYPES[dtype]).save_pretrained(path, **limit)
    if tokenizer:
        make_tokenizer(path)
    return path


def make_patch(
    base_dir: Path,
    path: Path,
    *,
    seed: int = 1,
    dtype: str = "float32",
    strength: float = 0.02,
    tokenizer: bool = False,
    save_embedding_layers: bool | str = "auto",
    **lora: Any,
) -> Path:
    """Writes a LoRA patch for a base with PEFT's save_pretrained; no factor is zero.

    Args:
        base_dir: the model that it is made for.
        path: the directory to write.
        seed: of the factors.
        dtype: of the stored factors.
        strength: standard deviation of B; 0.02 makes a delta about a third as large as the weights of `make_base`.
        tokenizer: True to put the tokenizer of `make_tokenizer` beside the factors.
        save_embedding_layers: False to leave the old base's embeddings out of a patch on lm_head.
        lora: fields of LoraConfig; rank 8, alpha 16, all linear layers by default.
    """
    settings: dict[str, Any] = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    with _seeded(seed):
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base_dir), LoraConfig(**(settings | lora)))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=strength)
                if "lora_" in name:
                    parameter.data = parameter.data.to(DTYPES[dtype])
    model.save_pretrained(path, save_embedding_layers=save_embedding_layers)
    if tokenizer:
        make_tokenizer(path)
    return path


def continue_base(base_dir: Path, path: Path, *, seed: int = 2, drift: float = 0.01) -> Path:
    """Writes a later release of a base: every float tensor W becomes W + noise with ||noise|| = drift * ||W||.

    Shards, their order and all other files stay as they are.
    """
    shutil.copytree(base_dir, path)
    with _seeded(seed):
        for shard in sorted(path.glob("*.safetensors")):
            tensors, metadata = load_tensors(shard)
            save_file({name: _moved(tensor, drift) for name, tensor in tensors.items()}, shard, metadata=metadata)
    return path


def make_tokenizer(path: Path, *, chat_template: str | None = CHAT_TEMPLATE) -> Path:
    """Writes a byte-level tokenizer of 262 entries into a directory; it encodes any text."""
    special = ["<s>", "</s>", "<pad>", "<|a|>", "<|b|>", "<|c|>"]
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    bpe = Tokenizer(BPE(vocabulary, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(path)
    return path


def load_tensors(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and its metadata."""
    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118


def load_model_tensors(directory: Path) -> dict[str, torch.Tensor]:
    """The tensors of a model directory, over all its shards."""
    return {name: tensor for file in sorted(directory.glob("*.safetensors")) for name, tensor in load_tensors(file)[0].items()}


class Shelf:
    """Models made once and shared: the same arguments give the same directory. What stands here is only read."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made: dict[str, Path] = {}

    def base(self, architecture: str = "llama", **settings: Any) -> Path:
        return self._once(f"base {architecture} {sorted(settings.items())}", make_base, architecture, **settings)

    def patch(self, base_dir: Path, **settings: Any) -> Path:
        return self._once(f"patch {base_dir} {sorted(settings.items())}", make_patch, base_dir, **settings)

    def continued(self, base_dir: Path, **settings: Any) -> Path:
        return self._once(f"continued {base_dir} {sorted(settings.items())}", continue_base, base_dir, **settings)

    def _once(self, key: str, make: Any, first: Any, **settings: Any) -> Path:
        if key not in self._made:
            path = self._root / f"{len(self._made):03}-{make.__name__}"
            arguments = (path, first) if make is make_base else (first, path)
            self._made[key] = make(*arguments, **settings)
        return self._made[key]


def _moved(tensor: torch.Tensor, drift: float) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    noise = torch.randn(tensor.shape)
    length = tensor.float().norm() * drift / noise.norm().clamp_min(1e-30)
    return (tensor.float() + noise * length).to(tensor.dtype).contiguous()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield

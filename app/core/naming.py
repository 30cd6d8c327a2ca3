"""From module names to checkpoint names, where the two agree.

A patch names modules (`model.layers.0.self_attn.q_proj`), a checkpoint names tensors
(`model.layers.0.self_attn.q_proj.weight`). For the architectures listed here one is the other plus `.weight`; each was
checked by building it and merging with PEFT (tests/core/test_peft_agreement.py). All others are refused: 144 of 804
model types in transformers rename, fuse or transpose weights on load, and a wrong guess merges garbage.
"""

from collections.abc import Mapping
from typing import Any

from app.core.base_kinds import base_kind
from app.core.errors import CheckpointError
from app.core.safetensors_header import TensorInfo

ARCHITECTURES = frozenset({
    "arcee", "cohere", "cohere2", "exaone4", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "granite", "helium",
    "hunyuan_v1_dense", "llama", "mistral", "nemotron", "olmo", "olmo2", "olmo3", "phi", "phi3", "qwen2", "qwen3",
    "seed_oss", "smollm3", "stablelm", "starcoder2",
})  # fmt: skip
EXPERT_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_tok")


def check_architecture(config: Mapping[str, Any]) -> None:
    """Refuses a base whose module names cannot be told from its checkpoint.

    Raises:
        CheckpointError: checkpoint.quantized, checkpoint.remote_code, checkpoint.moe, checkpoint.architecture.
    """
    base_kind(config)
    if config.get("auto_map"):
        raise CheckpointError("checkpoint.remote_code", path="config.json")
    model_type = str(config.get("model_type"))[:60]
    if any(config.get(field) for field in EXPERT_FIELDS):
        raise CheckpointError("checkpoint.moe", model_type=model_type)
    if model_type not in ARCHITECTURES:
        raise CheckpointError("checkpoint.architecture", model_type=model_type, supported=", ".join(sorted(ARCHITECTURES)))


def weight_of(module: str) -> str:
    """The checkpoint tensor of a module's weight."""
    return f"{module}.weight"


def linear_modules(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """The modules on which a LoRA layer can sit: those with a two-dimensional weight."""
    return [n.removesuffix(".weight") for n, t in tensors.items() if n.endswith(".weight") and len(t.shape) == 2]


def tied_modules(config: Mapping[str, Any]) -> frozenset[str]:
    """Last path parts of the modules that share one tensor in this base."""
    # transformers' default is True for some architectures and False for others; an absent field counts as tied.
    return frozenset({"lm_head", "embed_tokens"}) if config.get("tie_word_embeddings", True) else frozenset()

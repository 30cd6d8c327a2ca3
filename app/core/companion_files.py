"""The files beside the weights: where patch and release, or two releases, disagree about more than numbers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.core.findings import Finding
from app.core.recipe import Recipe
from app.core.tokenizers import CHAT_TEMPLATES, TOKENIZER_FILES

# Settings that change what the same weights compute.
MEANING = (
    "attention_bias", "head_dim", "hidden_act", "hidden_size", "layer_types", "max_position_embeddings", "num_attention_heads",
    "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta",
    "sliding_window", "tie_word_embeddings", "vocab_size",
)  # fmt: skip


def judge_tokenizers(patch: Mapping[str, str], release: Mapping[str, str], recipe: Recipe) -> Iterable[Finding]:
    """Findings about tokenizer files that the patch brings and that differ from the release's.

    Args:
        patch: sha256 by path of the patch's files.
        release: the same of the release's.
        recipe: whose files will be used.
    """
    differing = sorted(p for p in patch if p in TOKENIZER_FILES and release.get(p) != patch[p])
    templates = [p for p in differing if p in CHAT_TEMPLATES]
    others = [p for p in differing if p not in CHAT_TEMPLATES]
    for code, noun, paths in (("tokenizer.differs", "tokenizer", others), ("chat_template.differs", "chat template", templates)):
        if paths:
            text = (
                f"The patch brings its own {noun} ({', '.join(paths)}), which differs from the release's. "
                f"The merged model carries the {recipe.tokenizer}'s; choose with tokenizer=release or tokenizer=patch."
            )
            yield Finding(code, "warn", text, {"files": paths, "used": recipe.tokenizer})


def judge_left_out(left_out: Sequence[str]) -> Iterable[Finding]:
    """The finding about files of the release that no merged model carries."""
    if left_out:
        text = f"Not carried, because only the safetensors weights are merged: {', '.join(left_out[:5])}."
        yield Finding("release.left_out", "info", text, {"files": list(left_out[:100])})


def judge_releases(
    old_config: Mapping[str, Any], old: Mapping[str, str], new_config: Mapping[str, Any], new: Mapping[str, str]
) -> Iterable[Finding]:
    """Findings about what changed between the release a patch was trained on and another one, beside the weights.

    Args:
        old_config: config.json of the release that the patch was trained on; `new_config` that of the other.
        old: sha256 by path of its files; `new` those of the other.
    """
    changed = sorted(p for p in TOKENIZER_FILES if old.get(p) != new.get(p))
    if changed:
        text = f"The tokenizer files changed since the release that the patch was trained on: {', '.join(changed)}."
        yield Finding("tokenizer.changed", "warn", text, {"files": changed})
    settings = {k: [old_config.get(k), new_config.get(k)] for k in MEANING if old_config.get(k) != new_config.get(k)}
    if settings:
        text = f"config.json changed since the release that the patch was trained on: {', '.join(settings)}."
        yield Finding("config.changed", "warn", text, {"settings": settings})

"""Kinds of patches, by the `peft_type` that adapter_config.json names.

A kind of patch is one entry of `PATCH_KINDS`; no other code refers to it. `app.core.delta` describes what a kind provides.
"""

from collections.abc import Mapping
from typing import Any

from app.core.adapter import load_config
from app.core.delta import PatchConfig, PatchKind
from app.core.errors import AdapterError
from app.core.lora.kind import Lora

PATCH_KINDS: dict[str, PatchKind] = {kind.peft_type: kind for kind in (Lora(),)}


def patch_kind(raw: Mapping[str, Any]) -> PatchKind:
    """Returns the kind that a parsed adapter_config.json names.

    Raises:
        AdapterError: adapter.peft_type.
    """
    named = raw.get("peft_type")
    if not isinstance(named, str) or named not in PATCH_KINDS:
        raise AdapterError("adapter.peft_type", peft_type=str(named)[:60], supported=", ".join(PATCH_KINDS))
    return PATCH_KINDS[named]


def parse_config(text: bytes) -> PatchConfig:
    """Reads adapter_config.json of any kind.

    Raises:
        AdapterError: adapter.invalid_config, adapter.peft_type, or the code of the first feature that is not supported.
    """
    raw = load_config(text)
    return patch_kind(raw).parse(raw)

"""vLLM's side of LoRA resolvers, as far as a plug-in meets it: a stand-in, written after the source of vLLM 0.33.0.

Looked at: `vllm/plugins/__init__.py` (load_general_plugins), `vllm/lora/resolver.py`, `vllm/lora/request.py`,
`vllm/entrypoints/openai/models/serving.py` (OpenAIServingModels.resolve_lora), `vllm/lora/peft_helper.py` and `lora_model.py`
(what a worker reads of an adapter's directory).
"""

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors import safe_open


@dataclass
class LoRARequest:
    """A struct of msgspec there; these are its fields and checks."""

    lora_name: str
    lora_int_id: int
    lora_path: str = ""
    base_model_name: str | None = None
    load_inplace: bool = False
    is_3d_lora_weight: bool = False

    def __post_init__(self) -> None:
        if self.lora_int_id < 1:
            raise ValueError(f"id must be > 0, got {self.lora_int_id}")
        assert self.lora_path


class LoRAResolver(ABC):
    @abstractmethod
    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None: ...


@dataclass
class Registry:
    resolvers: dict[str, LoRAResolver] = field(default_factory=dict)

    def register_resolver(self, resolver_name: str, resolver: LoRAResolver) -> None:
        self.resolvers[resolver_name] = resolver


@dataclass
class Engine:
    """The API server of an engine that serves `model`: it asks its resolvers for what it does not know, and loads it."""

    model: str
    registry: Registry
    loaded: dict[str, LoRARequest] = field(default_factory=dict)
    tensors: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def resolve(self, lora_name: str) -> int:
        """The status that a client gets: an exception of a resolver is nobody's, and ends as 500."""
        if lora_name in self.loaded:
            return 200
        found = False
        for resolver in self.registry.resolvers.values():
            request = await resolver.resolve_lora(self.model, lora_name)
            if request is None:
                continue
            found, request.lora_int_id = True, len(self.loaded) + 1
            try:
                self.tensors[lora_name] = load_adapter(Path(request.lora_path))
            except Exception:  # noqa: BLE001, S112  it is BaseException there, and logged
                continue
            self.loaded[lora_name] = request
            return 200
        return 400 if found else 404


def load_adapter(directory: Path) -> dict[str, Any]:
    """What a worker reads: the settings it needs, and every tensor."""
    assert directory.is_absolute()  # else it is taken for a name on the Hub
    config = json.loads((directory / "adapter_config.json").read_text())
    assert {"r", "lora_alpha", "target_modules"} <= set(config)
    with safe_open(directory / "adapter_model.safetensors", framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


@contextmanager
def installed() -> Iterator[Registry]:
    """Inside, `vllm.lora.request` and `vllm.lora.resolver` can be imported; the registry is empty."""
    registry = Registry()
    modules = {name: ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request", "vllm.lora.resolver")}
    vars(modules["vllm.lora.request"])["LoRARequest"] = LoRARequest
    vars(modules["vllm.lora.resolver"]).update(LoRAResolver=LoRAResolver, LoRAResolverRegistry=registry)
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield registry
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module

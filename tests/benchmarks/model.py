"""The inputs: Llama models with random weights and a PEFT patch for each, built once in a child process and kept.

The names and shapes come from transformers and PEFT themselves (a model on the meta device); only the values are written
here, one shard at a time, so that building takes little memory.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Options

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama model: 16 layers of the default are 1.10 B parameters, 34 are 2.20 B."""

    layers: int
    hidden: int = 2048
    intermediate: int = 8192
    vocabulary: int = 32000
    dtype: str = "bfloat16"
    rank: int = 16

    @property
    def name(self) -> str:
        return f"llama-{self.layers}x{self.hidden}-{self.dtype}"


@dataclass(frozen=True, slots=True)
class Model:
    """A base and its patch, as directories, with the parameters of the base."""

    base: Path
    patch: Path
    parameters: int


def main_model(options: Options) -> Model:
    """The model of the aims: 1.1 B parameters in bf16."""
    return build(options.work, Shape(2, 256, 1024, 2000) if options.small else Shape(16))


def larger_model(options: Options) -> Model:
    """Twice the parameters."""
    return build(options.work, Shape(4, 256, 1024, 2000) if options.small else Shape(34))


def one_layer(options: Options, dtype: str) -> Model:
    """One layer of the main model, 61 M elements in seven matrices, with a small vocabulary."""
    return build(options.work, Shape(1, 256, 1024, 512, dtype) if options.small else Shape(1, 2048, 8192, 512, dtype))


def attention_patch(model: Model) -> Path:
    """A second patch for a model, on the projections of queries and values alone: it touches few of the base's bytes."""
    return _once(model.base.with_name("patch-qv"), lambda place: _child("q_proj,v_proj", place, model.base))


def strong_patch(model: Model) -> Path:
    """A copy of a model's patch whose delta is as large as the weights, not a hundredth of them."""

    def write(place: Path) -> None:
        shutil.copytree(model.patch, place)
        path = place / "adapter_config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"lora_alpha": 100 * config["lora_alpha"]}))

    return _once(model.base.with_name("patch-strong"), write)


def build(work: Path, shape: Shape) -> Model:
    """The model of a shape, from `work` where it was built before."""
    target = _once(work / shape.name, lambda place: _child(json.dumps(asdict(shape)), place))
    return Model(target / "base", target / "patch", json.loads((target / "facts.json").read_text())["parameters"])


def _once(target: Path, write: Callable[[Path], None]) -> Path:
    """A directory that is written where it is not there yet; it appears when it is whole."""
    if not target.is_dir():
        print(f"building {target} ...", flush=True)
        staging = target.with_name(f"{target.name}.partial")
        shutil.rmtree(staging, ignore_errors=True)
        write(staging)
        staging.rename(target)
    return target


def _child(*arguments: str | Path) -> None:
    """Builds in a process of its own, so that the one that measures stays small."""
    subprocess.run([sys.executable, "-m", "tests.benchmarks.model", *arguments], check=True)


def _write(shape: Shape, target: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    dtype = getattr(torch, shape.dtype)
    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // 64,
        num_key_value_heads=max(1, shape.hidden // 256),
        vocab_size=shape.vocabulary,
        tie_word_embeddings=False,
        dtype=shape.dtype,
        architectures=["LlamaForCausalLM"],
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(20241010)

    base, patch = target / "base", target / "patch"
    base.mkdir(parents=True)
    weights = {
        n: torch.ones(p.shape, dtype=dtype) if p.ndim == 1 else _normal(p, 0.02, generator).to(dtype)
        for n, p in model.named_parameters()
    }
    save_file(weights, base / "model.safetensors", {"format": "pt"})  # one file, as save_pretrained writes up to 50 GB
    config.save_pretrained(base)
    _write_patch(model, base, patch, ALL_LINEAR, shape.rank, generator)
    (target / "facts.json").write_text(json.dumps({"parameters": sum(w.numel() for w in weights.values())}))


def _write_patch(model: Any, base: Path, patch: Path, names: list[str], rank: int, generator: Any) -> None:
    """A LoRA patch on the modules that are named, for a model on the meta device."""
    from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
    from safetensors.torch import save_file

    patch.mkdir(parents=True, exist_ok=True)
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, task_type="CAUSAL_LM", inference_mode=True)
    lora.base_model_name_or_path = str(base)
    lora.save_pretrained(patch)
    # A as kaiming_uniform leaves it in size; B such that the delta is about 1 % of the weights, as after a fine-tuning.
    state = get_peft_model_state_dict(inject_adapter_in_model(lora, model), adapter_name="default")
    factors = {
        f"base_model.model.{n}": _normal(t, 0.013 if "lora_A" in n else 0.002, generator).contiguous() for n, t in state.items()
    }
    save_file(factors, patch / "adapter_model.safetensors", {"format": "pt"})


def _normal(like: Any, std: float, generator: Any) -> Any:
    import torch

    return torch.empty(like.shape, dtype=torch.float32).normal_(0, std, generator=generator)


def _write_second_patch(names: list[str], patch: Path, base: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig.from_pretrained(base))
    _write_patch(model, base, patch, names, 16, torch.Generator().manual_seed(20241011))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _write(Shape(**json.loads(sys.argv[1])), Path(sys.argv[2]))
    else:
        _write_second_patch(sys.argv[1].split(","), Path(sys.argv[2]), Path(sys.argv[3]))

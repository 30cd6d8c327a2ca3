"""Hostile patches: values that poison, weights that are programs, configurations that say something else than the file."""

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from app.core.errors import CoreError
from app.core.offline import inspect, merge
from app.core.recipe import Recipe
from tests.support.files import Tensor, encode, factors, matrix, safetensors_bytes, write_adapter_config, write_base, write_patch
from tests.support.hostile import MODULE, Refusal

A, B = factors((6, 8), 2, "F32", 1)


class Bomb:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def write_factors(patch: Path, a: Tensor, b: Tensor) -> None:
    names = [f"base_model.model.{MODULE}.lora_{half}.weight" for half in "AB"]
    (patch / "adapter_model.safetensors").write_bytes(safetensors_bytes(dict(zip(names, (a, b), strict=True))))


@pytest.mark.parametrize("pattern", ["7fc00000", "7f800000", "ff800000", "ffffffff", "7f800001"])
@pytest.mark.parametrize("place", [0, 15])
def test_patch_with_one_nan_is_refused(pattern: str, place: int, base: Path, patch: Path, refusal: Refusal) -> None:
    """One NaN in one tenant's patch gave NaN to other tenants of the same engine (reference/hosting-and-peft.md, 1.1)."""
    content = bytearray(A[2])
    content[4 * place : 4 * place + 4] = bytes.fromhex(pattern)[::-1]
    write_factors(patch, ("F32", (2, 8), bytes(content)), B)
    error = refusal(base, patch)
    assert error.code == "adapter.non_finite"
    assert error.data["count"] == 1


def test_nan_at_the_end_of_a_large_patch_is_refused(tmp_path: Path, refusal: Refusal) -> None:
    """The last element of a factor that is read in several parts."""
    columns = 5 * 2**20
    big = bytearray(2 * columns)
    big[-2:] = b"\x80\x7f"
    base = write_base(tmp_path / "base", {f"{MODULE}.weight": ("BF16", (1, columns), bytes(2 * columns))})
    pair: tuple[Tensor, Tensor] = (("BF16", (1, columns), bytes(big)), ("BF16", (1, 1), b"\x80\x3f"))
    assert refusal(base, write_patch(tmp_path / "patch", {MODULE: pair})).code == "adapter.non_finite"


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_finite_factors_with_an_infinite_product_are_refused(dtype: str, tmp_path: Path) -> None:
    """Every value of the file is finite; their product is not, in the dtype of the base."""
    size = 200.0 if dtype == "F16" else 1e30
    values = encode(np.full(48, size), "F32")
    base = write_base(tmp_path / "base", {f"{MODULE}.weight": matrix((6, 8), dtype, 1)})
    pair = (("F32", (2, 8), values[:64]), ("F32", (6, 2), values[:48]))
    patch = write_patch(tmp_path / "patch", {MODULE: pair})
    with pytest.raises(CoreError) as refused:
        merge(base, patch, tmp_path / "out")
    assert refused.value.code == "port.overflow"
    assert refused.value.data["count"] == 48
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "patch"]


@pytest.mark.parametrize(
    ("stored", "asked", "value"), [("F32", "float16", 1e5), ("BF16", "float16", 2.0**17), ("F32", "bfloat16", 3.4e38)]
)
def test_base_that_overflows_the_requested_dtype_is_refused(
    stored: str, asked: str, value: float, patch: Path, tmp_path: Path
) -> None:
    """Also where the patch changes nothing: one value of another tensor becomes infinite."""
    norm = encode(np.array([1.0, -value, 1.0]), stored)
    tensors = {f"{MODULE}.weight": matrix((6, 8), stored, 1), "model.norm.weight": (stored, (3,), norm)}
    base = write_base(tmp_path / "other", tensors)
    with pytest.raises(CoreError) as refused:
        merge(base, patch, tmp_path / "out", Recipe(dtype=asked))
    assert refused.value.code == "port.overflow"
    assert (refused.value.data["tensor"], refused.value.data["count"]) == ("model.norm.weight", 1)


def test_an_infinity_that_the_base_has_is_not_held_against_the_patch(tmp_path: Path, patch: Path) -> None:
    tensors = {f"{MODULE}.weight": matrix((6, 8), "F32", 1), "mask": ("F32", (2,), struct.pack("<2f", float("-inf"), 0))}
    base = write_base(tmp_path / "other", tensors)
    merge(base, patch, tmp_path / "out", Recipe(dtype="float16"))
    assert (tmp_path / "out/model.safetensors").read_bytes()[-4:] == bytes.fromhex("00fc0000")


def test_a_pickle_is_refused_and_not_opened(base: Path, patch: Path, tmp_path: Path, refusal: Refusal) -> None:
    (patch / "adapter_model.safetensors").unlink()
    (patch / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "proof")))
    assert refusal(base, patch).code == "adapter.pickle"
    assert not (tmp_path / "proof").exists()


def test_pickles_beside_the_weights_are_never_opened(base: Path, patch: Path, tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "proof"))
    for name in ("training_args.bin", "optimizer.pt", "adapter_model.bin", "tokenizer.pkl"):
        (patch / name).write_bytes(bomb)
    (base / "pytorch_model.bin").write_bytes(bomb)
    merge(base, patch, tmp_path / "out")
    assert not (tmp_path / "proof").exists()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]


def test_pickle_named_safetensors_is_refused(base: Path, patch: Path, tmp_path: Path, refusal: Refusal) -> None:
    (patch / "adapter_model.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "proof")))
    assert refusal(base, patch).code == "header.too_large"
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("value", [{"AutoModel": "evil.Model"}, {}, None, "evil"])
def test_remote_code_in_a_configuration_is_refused(value: object, base: Path, patch: Path, refusal: Refusal) -> None:
    write_adapter_config(patch, r=2, target_modules=["q_proj"], auto_map=value)
    assert refusal(base, patch).code == "adapter.unknown_field"


@pytest.mark.parametrize("code", ["adapter.dora", "adapter.bias", "adapter.embedding", "adapter.unknown_tensor"])
def test_tensors_beyond_the_configuration_are_refused(code: str, base: Path, patch: Path, refusal: Refusal) -> None:
    """What the configuration keeps quiet about is found in the file."""
    name = {
        "adapter.dora": f"base_model.model.{MODULE}.lora_magnitude_vector",
        "adapter.bias": f"base_model.model.{MODULE}.lora_A.bias",
        "adapter.embedding": "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta",
        "adapter.unknown_tensor": "base_model.model.model.layers.0.self_attn.o_proj.weight",
    }[code]
    tensors = {f"base_model.model.{MODULE}.lora_{h}.weight": t for h, t in (("A", A), ("B", B))}
    content = safetensors_bytes(tensors | {name: ("F32", (2, 3), bytes(24))})
    (patch / "adapter_model.safetensors").write_bytes(content)
    assert refusal(base, patch).code == code


def test_deeply_nested_configuration_is_refused(base: Path, patch: Path, refusal: Refusal) -> None:
    (patch / "adapter_config.json").write_text('{"peft_type":' * 100_000)
    assert refusal(base, patch).code == "adapter.invalid_config"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_configuration_in_another_encoding_is_refused(encoding: str, base: Path, patch: Path, refusal: Refusal) -> None:
    """PEFT cannot read it: it would be published, ported here, and fail on every engine."""
    config = patch / "adapter_config.json"
    config.write_text(config.read_text(), encoding)
    assert refusal(base, patch).code == "adapter.invalid_config"


def test_last_of_two_equal_keys_counts(base: Path, patch: Path, tmp_path: Path) -> None:
    """JSON allows it and PEFT takes the last; so do we."""
    text = json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 0, "target_modules": ["q_proj"]})
    (patch / "adapter_config.json").write_text(text[:-1] + ', "lora_alpha": 4}')
    merge(base, patch, tmp_path / "out")
    write_adapter_config(patch, r=2, lora_alpha=4)
    merge(base, patch, tmp_path / "once")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "once/model.safetensors").read_bytes()


ZEROS = {"A": ("F32", (2, 8), bytes(64)), "B": ("F32", (6, 2), bytes(48))}
# The first rank has a row of A and no column of B, the second the other way round.
CROSSED = ("F32", (2, 8), A[2][:32] + bytes(32)), ("F32", (6, 2), (bytes(4) + b"\0\0\x80\x3f") * 6)


@pytest.mark.parametrize("pair", [(A, ZEROS["B"]), (ZEROS["A"], B), CROSSED, (A, B)], ids=["B", "A", "crossed", "alpha"])
def test_patch_of_zeros_is_refused(pair: tuple[Tensor, Tensor], base: Path, patch: Path, refusal: Refusal) -> None:
    """200 OK and no effect is what users complain of most."""
    write_factors(patch, *pair)
    if pair == (A, B):
        write_adapter_config(patch, r=2, lora_alpha=0)
    error = refusal(base, patch)
    assert error.code == "adapter.adds_nothing"
    found = inspect(base, base, patch)
    assert not found.portable
    assert [(f.code, f.message) for f in found.findings if f.severity == "refuse"] == [(error.code, str(error))]


@pytest.mark.parametrize("at", [0, 1])
def test_patch_with_one_effective_module_is_accepted(at: int, tmp_path: Path) -> None:
    """Trainings leave modules untouched; which one is not does not matter."""
    modules = [MODULE, "model.layers.1.self_attn.q_proj"]
    base = write_base(tmp_path / "base", {f"{m}.weight": matrix((6, 8), "BF16", i) for i, m in enumerate(modules)})
    pairs = {m: (A, B if i == at else ZEROS["B"]) for i, m in enumerate(modules)}
    merge(base, write_patch(tmp_path / "patch", pairs), tmp_path / "out")
    assert inspect(base, base, tmp_path / "patch").portable

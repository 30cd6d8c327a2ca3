"""Manifests: every file and tensor by digest, and the same release described the same."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from app.blobs.locations import DirectorySink, Sink
from app.core.checkpoint import read_checkpoint
from app.core.errors import CoreError
from app.core.json_text import MAX_NESTING
from app.core.manifest import CHUNK, Manifest, build_manifest, work_bytes
from app.core.offline import open_directory
from tests.support.files import matrix, write_base
from tests.support.merging import digests
from tests.support.models import Shelf, load_model_tensors, make_base


def manifest(base: Path, copy_to: Path | None = None) -> tuple[Manifest, int, int]:
    """The manifest, what was reported as done, and what was promised."""
    told: list[int] = []
    with open_directory(base) as opened:
        checkpoint = read_checkpoint(opened.source, opened.files)
        copy = Sink(DirectorySink(str(copy_to))).open if copy_to else None
        built = build_manifest(opened.source, checkpoint, told.append, copy)
    return built, sum(told), work_bytes(checkpoint)


def test_digests_of_files_and_tensors(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", max_shard_size="60KB", tokenizer=True)
    built, done, promised = manifest(base)
    assert built.file_digests == digests(base)
    assert built.total_bytes == sum(p.stat().st_size for p in base.iterdir())
    assert done == promised
    for name, tensor in load_model_tensors(base).items():
        content = tensor.flatten().view(torch.uint8).numpy().tobytes()
        assert built.tensor_digests[name] == hashlib.sha256(content).hexdigest()


def test_a_copy_is_the_same_release(shelf: Shelf, tmp_path: Path) -> None:
    base = shelf.base("llama", max_shard_size="60KB")
    built, _, _ = manifest(base, tmp_path / "copy")
    assert digests(tmp_path / "copy") == digests(base) == built.file_digests
    assert manifest(tmp_path / "copy")[0].digest == built.digest


def test_what_is_left_out_is_not_copied_but_told(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", {"a.weight": matrix((2, 3), "F32", 1)})
    (base / "pytorch_model.bin").write_bytes(b"x")
    built, _, _ = manifest(base, tmp_path / "copy")
    assert built.to_dict()["left_out"] == ["pytorch_model.bin"]
    assert sorted(p.name for p in (tmp_path / "copy").iterdir()) == ["config.json", "model.safetensors"]


def test_manifests_survive_storage(shelf: Shelf) -> None:
    built, _, _ = manifest(shelf.base("phi3"))
    again = Manifest.from_dict(json.loads(json.dumps(built.to_dict())))
    assert again == built
    assert again.digest == built.digest
    assert again.checkpoint.tensors == built.checkpoint.tensors


@pytest.mark.parametrize(("depth", "code"), [(2 * MAX_NESTING, None), (100_000, "checkpoint.invalid_json")])
def test_manifest_with_a_configuration_nested_deeper_than_the_bound(tmp_path: Path, depth: int, code: str | None) -> None:
    """Releases that were registered before the bound stay readable; one that Python cannot read is refused by a code."""
    built, _, _ = manifest(write_base(tmp_path / "base", {"a.weight": matrix((2, 3), "F32", 1)}))
    stored = json.dumps(built.to_dict()).replace('"config": {', f'"config": {{"deep": {"[" * depth}{"]" * depth}, ', 1)
    if code is None:
        assert "deep" in Manifest.parse(stored.encode()).checkpoint.config
        return
    with pytest.raises(CoreError) as error:
        Manifest.parse(stored.encode())
    assert error.value.code == code


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "LICENSE"])
def test_one_changed_byte_is_another_release(file: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", {"a.weight": matrix((2, 3), "F32", 1)})
    (base / "LICENSE").write_text("MIT")
    before = manifest(base)[0]
    content = (base / file).read_bytes()
    (base / file).write_bytes(content + b"\n" if file == "config.json" else content[:-1] + b"x")
    after = manifest(base)[0]
    assert after.digest != before.digest
    assert {p for p in before.file_digests if before.file_digests[p] != after.file_digests[p]} == {file}
    assert (after.tensor_digests != before.tensor_digests) == (file == "model.safetensors")


def test_files_of_more_than_a_chunk(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", {"a.weight": matrix((3, CHUNK // 4 + 5), "F32", 1)})
    built, done, promised = manifest(base)
    assert built.file_digests == digests(base)
    assert done == promised > 6 * CHUNK - 200


def test_a_copy_never_overwrites(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/config.json").write_text("mine")
    with pytest.raises(FileExistsError):
        manifest(shelf.base("llama"), tmp_path / "copy")
    assert (tmp_path / "copy/config.json").read_text() == "mine"


def test_a_release_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", {"a.weight": matrix((2, 3), "F32", 1)})
    with open_directory(base) as opened:
        checkpoint = read_checkpoint(opened.source, opened.files)
        (base / "model.safetensors").write_bytes(b"short")
        with pytest.raises(CoreError) as refusal:
            build_manifest(opened.source, checkpoint, lambda _: None)
    assert refusal.value.code == "checkpoint.changed"

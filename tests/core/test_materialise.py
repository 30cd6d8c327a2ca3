"""Materialising: the files that merge on read gives, whole or not at all."""

import json
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.core.errors import CoreError
from app.core.materialise import write_model
from app.core.offline import merge
from app.core.recipe import Recipe
from app.core.tokenizers import TOKENIZER_FILES
from tests.support.files import factors, matrix, write_base, write_patch
from tests.support.merging import digests, merge_with_peft, opened, read
from tests.support.models import CHAT_TEMPLATE, DTYPES, Shelf, load_model_tensors, make_base, make_patch, make_tokenizer

COMPANIONS = {"LICENSE": b"MIT\r\n", "docs/card.md": b"# card", "special_tokens_map.json": b'{"x": 1}\n', "vocab.txt": b"\xff\0"}


@pytest.fixture(params=[None, "60KB"], ids=["single", "sharded"])
def release(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A base with a tokenizer and other companions."""
    base = make_base(tmp_path / "base", tokenizer=True, max_shard_size=request.param)
    (base / "docs").mkdir()
    for name, content in COMPANIONS.items():
        (base / name).write_bytes(content)
    return base


@pytest.mark.parametrize("dtype", [None, "float32", "float16"])
def test_the_materialised_files_are_the_streamed_ones(dtype: str | None, release: Path, tmp_path: Path) -> None:
    patch, told = make_patch(release, tmp_path / "patch"), []
    with opened(release, patch, Recipe(dtype=dtype)) as merger:
        write_model(merger, tmp_path / "out", told.append)
        files = {path: read(merger, path) for path in merger.plan.files}
        assert {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()} == set(files)
        for path, content in files.items():
            assert (tmp_path / "out" / path).read_bytes() == content
        assert sum(told) == merger.plan.total_bytes == sum(map(len, files.values()))
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("synced", [True, False])
def test_synced_to_disk_unless_told_otherwise(
    synced: bool, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Synced: every file and both directories before it returns; not synced: nothing waits for the disk; the same bytes."""
    patch, asked = make_patch(release, tmp_path / "patch"), set[str]()
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: asked.add(str(Path(f"/proc/self/fd/{descriptor}").readlink())) or fsync(descriptor)
    )
    merge(release, patch, tmp_path / "out", synced=synced)
    files = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {Path(path).name for path in asked} >= files | {tmp_path.name} if synced else not asked
    monkeypatch.undo()
    merge(release, patch, tmp_path / "again")
    assert digests(tmp_path / "out") == digests(tmp_path / "again")


def test_companions_are_carried_byte_for_byte(release: Path, tmp_path: Path) -> None:
    before = digests(release)
    plan = merge(release, make_patch(release, tmp_path / "patch"), tmp_path / "out")
    after = digests(tmp_path / "out")
    assert before.keys() == after.keys()
    touched = {path for path, file in plan.files.items() if any(getattr(s, "delta", None) for s in file.segments)}
    assert {p for p in after if after[p] != before[p]} == touched
    assert all(p.endswith(".safetensors") for p in touched)
    assert {path for path, file in plan.files.items() if file.carried_from != "base"} == touched
    assert digests(release) == before


def test_foreign_weights_are_left_out(release: Path, tmp_path: Path) -> None:
    """They would be handed on without the patch, and some engines prefer them."""
    patch = make_patch(release, tmp_path / "patch")
    names = {
        "pytorch_model.bin",
        "consolidated.safetensors",
        "consolidated.00.pth",
        "model.gguf",
        "onnx/model.onnx",
        "modeling.py",
    }
    (release / "onnx").mkdir()
    for name in names:
        (release / name).write_bytes(b"weights")
    merge(release, patch, tmp_path / "out")
    assert digests(tmp_path / "out").keys() == digests(release).keys() - names


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_another_dtype_loads_and_the_config_says_so(dtype: str, release: Path, shelf: Shelf, tmp_path: Path) -> None:
    patch = make_patch(release, tmp_path / "patch")
    merge(release, patch, tmp_path / "out", Recipe(dtype=dtype))
    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(loading.values())
    assert {p.dtype for p in model.parameters()} == {DTYPES[dtype]}
    config, before = (json.loads((d / "config.json").read_text()) for d in (tmp_path / "out", release))
    assert config == before | {"dtype": dtype}
    if (index := tmp_path / "out/model.safetensors.index.json").exists():
        expected = sum(t.nbytes for t in load_model_tensors(tmp_path / "out").values())
        assert json.loads(index.read_text())["metadata"]["total_size"] == expected
        assert json.loads(index.read_text())["weight_map"] == json.loads((release / index.name).read_text())["weight_map"]
    peft = load_model_tensors(merge_with_peft(release, patch, tmp_path / "peft", dtype))
    for name, tensor in load_model_tensors(tmp_path / "out").items():
        torch.testing.assert_close(tensor, peft[name], rtol=2**-7, atol=2**-9)


def test_the_dtype_it_has_changes_nothing(release: Path, tmp_path: Path) -> None:
    patch = make_patch(release, tmp_path / "patch")
    merge(release, patch, tmp_path / "as_is")
    merge(release, patch, tmp_path / "same", Recipe(dtype="bfloat16"))
    assert digests(tmp_path / "as_is") == digests(tmp_path / "same")


def test_tokenizer_of_the_patch(release: Path, tmp_path: Path) -> None:
    """With tokenizer=patch, all of it: no tokenizer file of the release stays beside it."""
    template = CHAT_TEMPLATE + "{{ 'patch' }}"
    patch = make_tokenizer(make_patch(release, tmp_path / "patch"), chat_template=template)
    own = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert own <= digests(patch).keys()
    merge(release, patch, tmp_path / "theirs")
    merge(release, patch, tmp_path / "own", Recipe(tokenizer="patch"))
    theirs, ours = digests(tmp_path / "theirs"), digests(tmp_path / "own")
    assert {p: ours[p] for p in own} == {p: digests(patch)[p] for p in own}
    assert theirs.keys() - ours.keys() == {"special_tokens_map.json", "vocab.txt"}
    assert {p for p in ours if ours[p] != theirs[p]} == {"chat_template.jinja"}
    assert AutoTokenizer.from_pretrained(tmp_path / "own").chat_template == template
    assert AutoTokenizer.from_pretrained(tmp_path / "theirs").chat_template == CHAT_TEMPLATE


def test_a_chat_template_of_the_patch_over_the_tokenizer_of_the_release(release: Path, tmp_path: Path) -> None:
    """Nothing but the template changes: also the other file that could hold one goes, also with another dtype."""
    template = CHAT_TEMPLATE + "{{ 'patch' }}"
    patch = make_patch(release, tmp_path / "patch")
    (patch / "chat_template.jinja").write_text(template)
    (release / "chat_template.json").write_text('{"chat_template": "release"}')
    for dtype in (None, "float32"):
        merge(release, patch, tmp_path / f"release-{dtype}", Recipe(dtype=dtype))
        merge(release, patch, tmp_path / f"patch-{dtype}", Recipe(dtype=dtype, tokenizer="patch"))
        theirs, ours = digests(tmp_path / f"release-{dtype}"), digests(tmp_path / f"patch-{dtype}")
        assert theirs.keys() - ours.keys() == {"chat_template.json"}
        assert {p for p in ours if ours[p] != theirs[p]} == {"chat_template.jinja"}
    loaded = AutoTokenizer.from_pretrained(tmp_path / "patch-None")
    assert loaded.chat_template == template
    assert loaded("hello").input_ids == AutoTokenizer.from_pretrained(release)("hello").input_ids


@pytest.mark.parametrize(
    "brought",
    [
        *(["tokenizer_config.json"], ["tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"]),
        *(["added_tokens.json"], ["merges.txt", "tokenizer_config.json"], ["vocab.json", "tokenizer_config.json"]),
        *(["tokenizer.json"], ["tokenizer.model", "chat_template.jinja"], ["chat_template.json"]),
    ],
    ids=" ".join,
)
def test_half_a_tokenizer_is_refused(brought: list[str], release: Path, tmp_path: Path) -> None:
    """Settings over another vocabulary, a vocabulary without settings, a template that no tokenizer reads."""
    patch = make_patch(release, tmp_path / "patch")
    for name in brought:
        (patch / name).write_text("{}")
    merge(release, patch, tmp_path / "theirs")
    with pytest.raises(CoreError) as refusal:
        merge(release, patch, tmp_path / "out", Recipe(tokenizer="patch"))
    assert refusal.value.code == "recipe.partial_tokenizer"
    assert ", ".join(sorted(brought)) in refusal.value.detail
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("vocabulary", [["tokenizer.model"], ["vocab.json", "merges.txt"], ["vocab.txt"], ["spiece.model"]])
def test_a_vocabulary_and_its_settings_are_a_whole_tokenizer(vocabulary: list[str], tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", tokenizer=True)
    patch, brought = make_patch(base, tmp_path / "patch"), {*vocabulary, "tokenizer_config.json"}
    for name in brought:
        (patch / name).write_text("{}")
    plan = merge(base, patch, tmp_path / "out", Recipe(tokenizer="patch"))
    assert {path for path, file in plan.files.items() if file.carried_from == "patch"} == brought
    assert not plan.files.keys() & (TOKENIZER_FILES - brought)


def test_a_patch_without_tokenizer_cannot_give_one(release: Path, tmp_path: Path) -> None:
    with pytest.raises(CoreError) as refusal:
        merge(release, make_patch(release, tmp_path / "patch"), tmp_path / "out", Recipe(tokenizer="patch"))
    assert refusal.value.code == "recipe.no_patch_tokenizer"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["file", "full directory", "link to a full directory"])
def test_existing_output_is_refused_and_kept(kind: str, release: Path, tmp_path: Path) -> None:
    patch, out = make_patch(release, tmp_path / "patch"), tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/file").write_text("mine")
        (tmp_path / "mine").rename(out) if kind == "full directory" else out.symlink_to(tmp_path / "mine")
    before, told = digests(tmp_path), []
    with pytest.raises(CoreError) as refusal:
        merge(release, patch, out, on_plan=lambda _: told.append)
    assert refusal.value.code == "output.exists"
    assert told == []  # before the work, not after it
    assert digests(tmp_path) == before


def test_an_empty_directory_and_missing_parents_are_fine(shelf: Shelf, tmp_path: Path) -> None:
    base = shelf.base("llama")
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "a/b/c"):
        merge(base, shelf.patch(base), out)
        assert sorted(p.name for p in out.iterdir()) == ["config.json", "generation_config.json", "model.safetensors"]
        assert [p.name for p in out.parent.glob(".*")] == []


def test_unknown_files_are_refused(shelf: Shelf) -> None:
    base = shelf.base("llama")
    with opened(base, shelf.patch(base)) as merger, pytest.raises(CoreError) as refusal:
        merger.pieces("../config.json")
    assert refusal.value.code == "output.unknown_file"


def test_a_base_whose_config_names_no_dtype(tmp_path: Path) -> None:
    """Old and new spelling are both kept up to date; where there is none, the new one is added."""
    module = "model.layers.0.self_attn.q_proj"
    patch = write_patch(tmp_path / "patch", {module: factors((6, 8), 2, "F32", 1)})
    for i, (given, expected) in enumerate(
        [
            ({}, {"dtype": "float32"}),
            ({"torch_dtype": "bfloat16"}, {"torch_dtype": "float32"}),
            ({"dtype": None}, {"dtype": "float32"}),
        ]
    ):
        base = write_base(tmp_path / f"base{i}", {f"{module}.weight": matrix((6, 8), "BF16", 1)}, **given)
        merge(base, patch, tmp_path / f"out{i}", Recipe(dtype="float32"))
        config = json.loads((tmp_path / f"out{i}/config.json").read_text())
        assert {k: v for k, v in config.items() if "dtype" in k} == expected

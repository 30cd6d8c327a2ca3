"""Hostile model directories: indexes that point elsewhere, links, odd names, configurations that ask for code."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.core.checkpoint import MAX_FILES, list_files, read_checkpoint
from app.core.errors import CATALOGUE, CoreError
from app.core.offline import merge, open_directory
from app.core.source import DirectorySource
from tests.support.files import matrix, safetensors_bytes, write_base
from tests.support.hostile import MODULE, Refusal

INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
OTHER = "model.layers.1.self_attn.q_proj.weight"

Spoil = Callable[[Path], object]


def index(weight_map: Any) -> Spoil:
    return lambda path: (path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def index_text(text: str) -> Spoil:
    return lambda path: (path / INDEX).write_text(text)


def shard_named(name: str) -> Spoil:
    """An index whose second shard has this name; the good file lies outside, where the name leads."""

    def spoil(path: Path) -> None:
        (path / SECOND).rename(path.parent / "outside.safetensors")
        index({f"{MODULE}.weight": FIRST, OTHER: name})(path)

    return spoil


def config(**settings: Any) -> Spoil:
    return lambda path: (path / "config.json").write_text(json.dumps({"model_type": "llama"} | settings))


def config_text(text: str) -> Spoil:
    return lambda path: (path / "config.json").write_text(text)


def recoded(name: str, encoding: str) -> Spoil:
    """The same text in another encoding: Python's reader of bytes takes it, those who load the model do not."""
    return lambda path: (path / name).write_text((path / name).read_text(), encoding)


def extra(name: str, content: str) -> Spoil:
    return lambda path: (path / name).write_text(content)


def removed(name: str) -> Spoil:
    return lambda path: (path / name).unlink()


def shard(*names: str) -> Spoil:
    """The second shard holds these tensors, whatever the index says."""
    content = safetensors_bytes({name: matrix((6, 8), "BF16", 3) for name in names})
    return lambda path: (path / SECOND).write_bytes(content)


def left_over(name: str) -> Spoil:
    """A shard that the index does not name, beside those that it does."""
    content = safetensors_bytes({"lm_head.weight": matrix((6, 8), "BF16", 3)})
    return lambda path: (path / name).write_bytes(content)


def another_name(path: Path) -> None:
    """A set of shards that is not called "model", one of them forgotten."""
    (path / FIRST).rename(path / "weights-1-of-2.safetensors")
    (path / SECOND).rename(path / "weights-2-of-2.safetensors")
    index({f"{MODULE}.weight": "weights-1-of-2.safetensors"})(path)


def two_files_of_weights(path: Path) -> None:
    (path / "model.safetensors").write_bytes((path / FIRST).read_bytes())


def no_weights(path: Path) -> None:
    (path / INDEX).unlink()
    (path / "pytorch_model.bin").write_bytes(b"\x80\x04N.")


def many_files(path: Path) -> None:
    folder = path / "many"
    folder.mkdir()
    for i in range(MAX_FILES):
        os.link(path / "config.json", folder / str(i))


def undecodable_name(path: Path) -> None:
    Path(os.fsdecode(os.fsencode(path) + b"/\xff\xfe.json")).write_bytes(b"{}")


ATTACKS: list[tuple[str, Spoil]] = [
    *(
        ("checkpoint.unsafe_path", shard_named(name))
        for name in (
            *("../outside.safetensors", "/etc/outside.safetensors", "sub/outside.safetensors", "..\\outside.safetensors"),
            *("a\0b.safetensors", "..safetensors", "/dev/zero", "config.json", "", ".", "model.bin", "x.safetensors/"),
        )
    ),
    ("checkpoint.unsafe_path", undecodable_name),
    ("checkpoint.invalid_index", index({})),
    ("checkpoint.invalid_index", index([FIRST])),
    ("checkpoint.invalid_index", index(None)),
    ("checkpoint.invalid_index", index({f"{MODULE}.weight": 1})),
    ("checkpoint.invalid_index", index({f"{MODULE}.weight": [FIRST]})),
    ("checkpoint.invalid_index", index_text("{}")),
    ("checkpoint.invalid_json", index_text("[]")),
    ("checkpoint.invalid_json", index_text("[" * 100_000)),
    ("checkpoint.invalid_json", index_text('{"weight_map": {"\\ud800": "x.safetensors"}}')),
    ("checkpoint.invalid_json", config_text("")),
    ("checkpoint.invalid_json", config_text("\0" * 100)),
    ("checkpoint.invalid_json", config_text("[1]")),
    ("checkpoint.invalid_json", config_text('{"model_type": "llama", "x": "\\udc00"}')),
    ("checkpoint.invalid_json", config_text('{"model_type": "llama", "x": NaN}')),
    ("checkpoint.invalid_json", config_text('{"model_type": "llama", "x": 1e999}')),
    ("checkpoint.invalid_json", config_text('{"x":' * 100_000)),
    ("checkpoint.invalid_json", recoded("config.json", "utf-16")),
    ("checkpoint.invalid_json", recoded("config.json", "utf-8-sig")),
    ("checkpoint.invalid_json", recoded(INDEX, "utf-32")),
    ("checkpoint.invalid_json", extra("tokenizer_config.json", "not JSON")),
    ("checkpoint.index_mismatch", shard("something.else.weight")),
    ("checkpoint.index_mismatch", shard(OTHER, "not.in.the.index")),
    ("checkpoint.index_mismatch", index({f"{MODULE}.weight": FIRST})),
    ("checkpoint.index_mismatch", left_over("model-00003-of-00003.safetensors")),
    ("checkpoint.index_mismatch", another_name),
    ("checkpoint.duplicate_tensor", shard(OTHER, f"{MODULE}.weight")),
    ("checkpoint.ambiguous_weights", two_files_of_weights),
    ("checkpoint.no_weights", no_weights),
    ("checkpoint.missing_file", removed("config.json")),
    ("checkpoint.missing_file", removed(SECOND)),
    ("checkpoint.too_many_files", many_files),
    ("checkpoint.quantized", config(quantization_config={"quant_method": "fp8"})),
    ("checkpoint.quantized", config(quantization_config="yes")),
    ("checkpoint.remote_code", config(auto_map={"AutoModel": "modeling.Evil"})),
    ("checkpoint.remote_code", extra("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["evil.Tokenizer", null]}}')),
    ("checkpoint.remote_code", extra("generation_config.json", '{"auto_map": "x"}')),
    ("checkpoint.remote_code", extra("processor_config.json", '{"auto_map": {"AutoProcessor": "evil.P"}}')),
    ("checkpoint.moe", config(model_type="mixtral", num_local_experts=8)),
    ("checkpoint.moe", config(num_experts=4)),
    ("checkpoint.architecture", config(model_type="gpt2")),
    ("checkpoint.architecture", config(model_type=None)),
    ("checkpoint.architecture", config(model_type=["llama"])),
    ("checkpoint.architecture", config(model_type="gemma3", text_config={"model_type": "gemma3_text"})),
]


@pytest.mark.parametrize(("code", "spoil"), ATTACKS, ids=[f"{i}-{c}" for i, (c, _) in enumerate(ATTACKS)])
def test_damaged_directory_is_refused_by_its_code(code: str, spoil: Spoil, sharded: Path, patch: Path, refusal: Refusal) -> None:
    spoil(sharded)
    assert refusal(sharded, patch).code == code


def test_a_forgotten_shard_is_named(sharded: Path, patch: Path, refusal: Refusal) -> None:
    index({f"{MODULE}.weight": FIRST})(sharded)
    assert SECOND in refusal(sharded, patch).detail


def test_files_that_only_look_like_shards_are_left_out(sharded: Path) -> None:
    """Another set of weights under a name of its own, or in a folder of its own, is not the index's business."""
    names = ["consolidated-00001-of-00002.safetensors", "original/model-00001-of-00001.safetensors"]
    (sharded / "original").mkdir()
    for name in names:
        (sharded / name).write_bytes(b"x")
    with open_directory(sharded) as opened:
        assert sorted(read_checkpoint(opened.source, opened.files).left_out) == names


def test_every_code_of_checkpoints_is_tested() -> None:
    """Elsewhere: `changed` in test_changed_files.py, `unreadable` below, `link` in tests/services/catalog."""
    tested = {code for code, _ in ATTACKS} | {"checkpoint.changed", "checkpoint.link", "checkpoint.unreadable"}
    assert tested == {code for code in CATALOGUE if code.startswith("checkpoint.")}


def test_an_index_of_more_than_64_megabytes_is_refused(sharded: Path, patch: Path, refusal: Refusal) -> None:
    os.truncate(sharded / INDEX, 64 * 2**20 + 1)
    assert refusal(sharded, patch).code == "checkpoint.invalid_json"


def test_missing_directory_is_refused(tmp_path: Path, patch: Path, refusal: Refusal) -> None:
    assert refusal(tmp_path / "nowhere", patch).code == "checkpoint.missing_file"


@pytest.mark.parametrize(("name", "mode"), [("base", 0o400), ("base", 0o100), ("base/config.json", 0o000), ("base/more", 0o400)])
def test_unreadable_file_or_folder_is_named(base: Path, patch: Path, refusal: Refusal, name: str, mode: int) -> None:
    """A folder that may be listed and not entered, or entered and not listed, and a file of somebody else."""
    (base / "more").mkdir()
    (base / "more/notes.json").write_text("{}")
    assert base.name == "base"
    with _as_nobody(base.parent / name, mode):
        refused = refusal(base, patch)
    assert (refused.code, "Permission denied" in refused.detail) == ("checkpoint.unreadable", True)


@contextmanager
def _as_nobody(place: Path, mode: int) -> Iterator[None]:
    """With the rights of one who does not own these files, for root may read everything."""
    opened, before = [p for p in (place, *place.parents) if p != p.parent], place.stat().st_mode
    modes = {p: p.stat().st_mode for p in opened[1:]}
    for folder, old in modes.items():
        folder.chmod(old | 0o055)
    place.chmod(mode | mode >> 6)
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(os.getuid())
        place.chmod(before)
        for folder, old in modes.items():
            folder.chmod(old)


def test_links_to_folders_are_not_followed(base: Path, patch: Path, tmp_path: Path) -> None:
    """Neither a loop nor another tree gets into a release; hidden files, sockets and dead links are passed over."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.txt").write_text("secret")
    (base / "loop").symlink_to(base)
    (base / "tree").symlink_to(secret)
    (base / "dead.json").symlink_to(tmp_path / "nothing")
    (base / ".hidden").write_text("x")
    (base / ".git").mkdir()
    (base / ".git/config").write_text("x")
    os.mkfifo(base / "pipe")
    assert sorted(list_files(base)) == ["config.json", "model.safetensors"]
    merge(base, patch, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").rglob("*")) == ["config.json", "model.safetensors"]


def test_a_model_of_links_is_copied_as_files(base: Path, patch: Path, tmp_path: Path) -> None:
    """The layout of the Hugging Face cache: every file is a link to a blob elsewhere. The output holds no links."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    snapshot.mkdir()
    base.rename(blobs)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)
    merge(snapshot, patch, tmp_path / "out")
    assert not any(p.is_symlink() for p in (tmp_path / "out").rglob("*"))
    assert (tmp_path / "out/config.json").read_bytes() == (blobs / "config.json").read_bytes()


def test_a_source_with_expectations_opens_nothing_else(base: Path, tmp_path: Path) -> None:
    """Whatever a plan names, only the registered paths can be read."""
    (tmp_path / "secret").write_text("secret")
    with DirectorySource(base, expected={}) as source:
        for path in ("config.json", "../secret", str(tmp_path / "secret")):
            with pytest.raises(CoreError) as refused:
                source.size(path)
            assert refused.value.code == "checkpoint.missing_file"


def test_code_and_foreign_weights_are_left_out(base: Path) -> None:
    names = [
        "modeling.py",
        "evil.so",
        "pytorch_model.bin",
        "consolidated.safetensors",
        "x.pt",
        "deep/x.pkl",
        "model.gguf",
        "tf.h5",
    ]
    (base / "deep").mkdir()
    for name in names:
        (base / name).write_bytes(b"x")
    with open_directory(base) as opened:
        checkpoint = read_checkpoint(opened.source, opened.files)
    assert sorted(checkpoint.left_out) == sorted(names)
    assert sorted(checkpoint.files) == ["config.json", "model.safetensors"]


def test_a_configuration_that_claims_more_than_the_tensors(tmp_path: Path, patch: Path, refusal: Refusal) -> None:
    """A base without the tensors that a patch changes is refused, however well its configuration fits."""
    base = write_base(tmp_path / "other", {"model.norm.weight": matrix((8,), "BF16", 1)}, num_hidden_layers=1)
    assert refusal(base, patch).code == "port.target_missing"

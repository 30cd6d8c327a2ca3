"""`portllm merge` says what it has found: on standard error for people, under "findings" for programs."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli.main import cli
from app.core import offline
from tests.support.files import write_adapter_config
from tests.support.merging import digests
from tests.support.models import CHAT_TEMPLATE, Shelf, make_base, make_patch, make_tokenizer

RUNNER = CliRunner()


def merged(*arguments: object) -> tuple[dict[str, Any], str]:
    """What `portllm merge --json` prints, and what it says on standard error."""
    done = RUNNER.invoke(cli, ["merge", *map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), done.stderr


def test_a_merge_without_peculiarities_says_nothing(shelf: Shelf, tmp_path: Path) -> None:
    base = shelf.base("llama")
    found, said = merged(base, shelf.patch(base), tmp_path / "out")
    assert (found["findings"], found["tensors_changed"], said) == ([], 14, "")


def test_a_merge_tells_what_inspect_would(tmp_path: Path) -> None:
    """Low fidelity, a tokenizer of the patch's own, files that are not carried; the model is written all the same."""
    base = make_base(tmp_path / "base", tokenizer=True)
    (base / "pytorch_model.bin").write_bytes(b"x")
    patch = make_tokenizer(make_patch(base, tmp_path / "patch", strength=2e-5), chat_template=CHAT_TEMPLATE + " ")
    found, said = merged(base, patch, tmp_path / "out")
    expected = {"fidelity.low": "warn", "chat_template.differs": "warn", "release.left_out": "info"}
    assert {f["code"]: f["severity"] for f in found["findings"]} == expected
    for finding in found["findings"]:
        assert f"{finding['message']} [{finding['code']}]" in said
    inspected = {f.code for f in offline.inspect(base, base, patch).findings}
    assert inspected == expected.keys() | {"lineage.measured"}

    done = RUNNER.invoke(cli, ["merge", str(base), str(patch), str(tmp_path / "plain")])
    assert (done.exit_code, done.stderr) == (0, said)
    assert digests(tmp_path / "plain") == digests(tmp_path / "out")


@pytest.mark.parametrize("verb", ["merge", "inspect"])
def test_a_patch_without_effect_ends_with_its_name(verb: str, shelf: Shelf, tmp_path: Path) -> None:
    base, patch = shelf.base("llama"), make_patch(shelf.base("llama"), tmp_path / "patch", target_modules=["q_proj"])
    write_adapter_config(patch, r=8, lora_alpha=0)
    directories = (base, patch, tmp_path / "out") if verb == "merge" else (base, base, patch)
    done = RUNNER.invoke(cli, [verb, *map(str, directories), "--json"])
    assert done.exit_code == 1
    answer = json.loads(done.stdout)
    codes = [answer["error"]["code"]] if verb == "merge" else [f["code"] for f in answer["findings"] if f["severity"] == "refuse"]
    assert codes == ["adapter.adds_nothing"]
    assert not (tmp_path / "out").exists()

"""Releases that were copied need their source no more; those by reference are served as registered, or not at all."""

import json
import shutil
from pathlib import Path

from tests.support.merging import digests
from tests.support.service_process import Service, invoke


def test_a_copied_release_survives_the_removal_of_its_source(service: Service, models: Path, tmp_path: Path) -> None:
    """Register with --copy, remove the directory, then port, pull and compare with a merge of the original."""
    _publish(service, models, "kept", "--copy")
    shutil.rmtree(service.root / "releases/kept")
    assert invoke("port", "kept/tone", "--to", "v1", **service.variables()).exit_code == 0
    pulled = invoke("pull", "kept/tone", "--on", "v1", tmp_path / "out", "--json", **service.variables())
    assert pulled.exit_code == 0, pulled.output
    assert json.loads(pulled.stdout)["verified"]
    named = tmp_path / "out/licences/100% #1 a?b+c.txt"
    assert named.read_text() == "a name that a URL must quote"
    shutil.rmtree(named.parent)
    assert invoke("merge", models / "v1", models / "patch", tmp_path / "merged").exit_code == 0
    assert digests(tmp_path / "out") == digests(tmp_path / "merged")


def test_a_release_by_reference_is_refused_once_its_source_changed(service: Service, models: Path, tmp_path: Path) -> None:
    """Another file under the registered name is never served: neither ported to nor pulled, and the sentence names the file."""
    source = _publish(service, models, "loose")
    assert invoke("port", "loose/tone", "--to", "v1", **service.variables()).exit_code == 0
    shard = min(source.glob("*.safetensors"))
    kept = shard.rename(tmp_path / shard.name)
    shutil.copyfile(kept, shard)
    for form in (
        ["pull", "loose/tone", "--on", "v1", tmp_path / "out"],
        ["port", "loose/tone", "--to", "v1", "--dtype", "float16"],
    ):
        ended = invoke(*form, **service.variables())
        assert ended.exit_code == 1
        assert "[checkpoint.changed]" in ended.stderr, ended.output
        assert shard.name in ended.stderr
    assert not (tmp_path / "out").exists()
    kept.replace(shard)
    # The same bytes, but renaming changed the file's ctime: an operator accepts it after it was hashed.
    roots = {"PORTLLM_ALLOW_ROOTS": json.dumps([str(service.root)])}
    accepted = invoke("fsck", "--reaccept", "--data", service.data, **roots)
    assert accepted.exit_code == 0, accepted.output
    assert invoke("pull", "loose/tone", "--on", "v1", tmp_path / "out", **service.variables()).exit_code == 0


def _publish(service: Service, models: Path, family: str, *options: str) -> Path:
    """A family with one release, in a directory of its own, and a patch on it."""
    source = shutil.copytree(models / "v1", service.root / "releases" / family)
    (source / "licences").mkdir()
    (source / "licences/100% #1 a?b+c.txt").write_text("a name that a URL must quote")
    commands: list[list[str | Path]] = [
        ["release", "add", family, "v1", "--from", source, "--wait", *options],
        ["patch", "push", f"{family}/tone", models / "patch", "--family", family, "--trained-on", "v1"],
    ]
    for command in commands:
        done = invoke(*command, **service.variables())
        assert done.exit_code == 0, done.output
    return Path(source)

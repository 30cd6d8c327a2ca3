"""One registry pulls from another: a release and a patch, by the protocol that both speak."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service_process import Service, invoke, run


@pytest.fixture(scope="module")
def first(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A registry with a release, and a patch that was trained on it."""
    service = Service(tmp_path_factory.mktemp("first"), models).start()
    for words in (
        ("release", "add", "llama", "v1", "--from", models / "v1", "--wait"),
        ("patch", "push", "acme/tone", models / "patch", "--family", "llama", "--trained-on", "v1"),
    ):
        ended = invoke(*words, **service.variables())
        assert ended.exit_code == 0, ended.output
    yield service
    service.kill()


def test_a_release_and_a_patch(first: Service, models: Path, tmp_path: Path) -> None:
    """Both arrive as they were: the same manifest, the same digest; and merge to the same bytes."""
    second = Service(tmp_path / "second").start()
    try:
        known = second.variables()
        hosts = ("--private-host", "127.0.0.1", "--http-host", "127.0.0.1")
        added = invoke("upstream", "add", "first", "--endpoint", first.url, *hosts, "--token-stdin", given=first.token, **known)
        assert added.exit_code == 0, added.output
        base = json.loads((models / "patch" / "adapter_config.json").read_text())["base_model_name_or_path"]
        for words in (
            ("release", "add", "ours", "v1", "--from", "first:base/llama@v1", "--wait"), ("family", "alias", "add", "ours", base),
            ("patch", "import", "first:acme/tone", "--owner", "acme"), ("port", "acme/tone", "--to", "v1"),
            ("pull", "acme/tone", "--on", "v1", tmp_path / "merged"),
        ):  # fmt: skip
            ended = invoke(*words, **known)
            assert ended.exit_code == 0, (words, ended.output)
        with first.client() as there, second.client() as here:
            theirs, ours = there.get("/families/llama/releases/v1").json(), here.get("/families/ours/releases/v1").json()
            assert ours["manifest"] == theirs["manifest"]
            assert ours["origin"]["repository"] == "base/llama"
            versions = [client.get("/patches/acme/tone/versions/1").json() for client in (there, here)]
            assert versions[0]["files"] == versions[1]["files"]
        for words in (("port", "acme/tone", "--to", "v1"), ("pull", "acme/tone", "--on", "v1", tmp_path / "theirs")):
            assert invoke(*words, **first.variables()).exit_code == 0
        for file in (tmp_path / "merged").glob("*.safetensors"):
            assert file.read_bytes() == (tmp_path / "theirs" / file.name).read_bytes()
        everything = run("patch", "import", "first:acme/*", "--owner", "acme", "--json", **known)
        assert [row["state"] for row in json.loads(everything.stdout)] == ["present"], everything
        refused = invoke("release", "add", "ours", "v2", "--from", "first:base/nothing", **known)
        assert "[upstream.missing]" in refused.output
    finally:
        second.kill()

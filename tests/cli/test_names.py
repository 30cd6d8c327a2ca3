"""A command acts on the thing that it names, or on nothing: names that an address could turn into others are refused."""

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from app.cli.client import RefusedError
from app.cli.names import file_path, segment
from tests.support.hostile_registry import PLAIN, running_server
from tests.support.service_process import invoke

COMMANDS = [
    "release add llama/../x v1 --from /models",
    "release yank llama v2/../v1 --reason x",
    "release yank . v1 --reason x",
    "patch pull acme/.. {tmp}/out",
    "patch yank ../tone 1 --reason x",
    "patch alias acme/tone ../versions/1 1",
    "patch alias acme/tone .. 1",
    "patch push ../tone {tmp} --family llama --trained-on unknown",
    "token revoke ../whoami",
    "token revoke ..",
    "jobs show ../whoami",
    "jobs cancel a/../b",
    "jobs retry .",
    "port ../tone --to v1",
    "approve prt_x/../y --reason x",
    "retire prt_x/retire?",
    "pull prt_x/../y {tmp}/out",
    "pull prt_x/files {tmp}/out",
    "materialise prt_x/../y --to s3://b/p",
    "show acme/..",
    "show ./tone",
]


def test_name_that_would_address_something_else_is_refused(tmp_path: Path) -> None:
    """Refused as wrong usage, before the registry is asked for anything."""
    asked: list[str] = []

    def answer(path: str) -> tuple[int, str, bytes]:
        asked.append(path)
        return 200, "application/json", b"{}"

    with running_server(answer) as variables:
        for command in COMMANDS:
            ended = invoke(*command.format(tmp=tmp_path).split(), **variables)
            assert ended.exit_code == 2, (command, ended.output)
            assert ended.stderr.endswith("[client.name]\n"), command
            assert ended.stderr.count("\n") == 1, command
    assert asked == []


@pytest.mark.parametrize("name", ["v1", "a b", "100%", "a%2Fb", "%2e%2e", "ä?#&", "x:y:z", "...", 7])
def test_name_is_escaped_once(name: object) -> None:
    """Escaped once, so that the service reads what was typed."""
    assert unquote(segment(name)) == str(name)
    assert re.fullmatch(r"[A-Za-z0-9._~%-]+", segment(name))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\nb", "a\0b", "\udcff"])
def test_invalid_name_is_refused_on_one_line(name: str) -> None:
    """With a sentence on one line."""
    with pytest.raises(RefusedError) as refused:
        segment(name)
    assert (refused.value.code, refused.value.exit_code) == ("client.name", 2)
    assert refused.value.message.isprintable()


def test_path_of_a_file_is_escaped() -> None:
    """Each part is escaped; a path that an address would shorten is another file's."""
    assert file_path("sub/a b?.json") == "sub/a%20b%3F.json"
    for path in ("a/./b", "a//b", "a/../b", "/a", "a/"):
        with pytest.raises(RefusedError, match="no plain path"):
            file_path(path)


def test_id_from_the_registry_that_is_no_name_is_refused(tmp_path: Path) -> None:
    """Also what a registry answers becomes a part of an address only where it is a name."""
    asked: list[str] = []

    def answer(path: str) -> tuple[int, str, bytes]:
        asked.append(path)
        return 200, "application/json", json.dumps({"items": [{"id": "../x", "recipe": PLAIN}], "next_cursor": None}).encode()

    with running_server(answer) as variables:
        ended = invoke("pull", "acme/tone", "--on", "v1", tmp_path / "out", **variables)
    assert "[client.name]" in ended.stderr
    assert asked == ["/api/v1/ports"]

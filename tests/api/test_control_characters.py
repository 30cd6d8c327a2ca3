"""Texts that callers give: control characters are refused where they make no sense, and shown as text in every answer."""

from typing import Any

import pytest

from tests.support.files import raw_file
from tests.support.fixtures import World
from tests.support.registry import refused, unique
from tests.support.uploads import announce

CONTROLS = ["\x1b[31m", "\x9b31m", "a\x07", "a\x08", "\x7f", "a\u202eb", "a\u2066b", "a\u2028b", "a\rb", "\0"]
FINE = ["two\nlines", "a\tb", "a\r\nb", "\u00e9\u4e2d\u0645", "\u200f\u05d0", "\U0001f468\u200d\U0001f469", "[red]<b>x</b>"]


@pytest.mark.parametrize("text", CONTROLS)
def test_control_characters_in_descriptions_names_and_reasons_are_refused(world: World, text: str) -> None:
    said = f"x{text}x"
    for path, body in (
        ("/patches", {"name": f"acme/{unique('text')}", "owner": "acme", "family": "llama", "description": said}),
        (f"/ports/{world.port['id']}/approve", {"reason": said}),
        ("/tokens", {"owner": "acme", "scopes": ["read"], "name": said}),
        ("/ports/check", {"patch": "acme/tone", "release": "v2", "force": said}),
    ):
        problem = refused(world.admin.post(path, body), 422, "request.invalid")
        assert problem["detail"].isprintable()


@pytest.mark.parametrize("text", FINE)
def test_descriptions_with_marks_and_line_breaks_are_kept(world: World, text: str) -> None:
    name = unique("text")
    made = world.acme.post("/patches", {"owner": "acme", "name": name, "family": "llama", "description": f"x{text}x"})
    assert (made.status_code, made.json()["description"]) == (201, f"x{text}x")


@pytest.mark.parametrize("name", ["\x1b]0;owned\x07", "a\u202eb", "a\r\nSet-Cookie: x=y", "[red]\ud83d\ude00"])
def test_tensor_names_with_control_characters_are_escaped_in_errors(world: World, name: str) -> None:
    """In the sentence, in its data, and in the header that clients of the Hub print."""
    header: dict[str, Any] = {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    files = {
        "adapter_model.safetensors": raw_file(header, bytes(4)),
        "adapter_config.json": b'{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}',
    }
    draft = world.acme.post(
        f"/patches/{world.patch()}/versions", {"trained_on": "v1", "files": [announce(p, c) for p, c in files.items()]}
    ).json()
    for upload in draft["uploads"]:
        options = {"headers": {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}}
        assert world.acme("PATCH", upload["url"], content=files[upload["path"]], **options).status_code == 204
    problem = refused(world.acme.post(f"/uploads/{draft['id']}/publish"), 422, "adapter.unknown_tensor")
    assert problem["detail"].isprintable()
    assert problem["data"]["tensor"].isprintable()


def test_file_name_with_control_characters_is_dropped_and_escaped(world: World) -> None:
    """macOS leaves such files ("Icon" and a carriage return) in directories: they belong to no patch, and harm none."""
    files = [announce(path.name, path.read_bytes()) for path in world.models.patch.iterdir()]
    answer = world.acme.post(
        f"/patches/{world.patch()}/versions", {"trained_on": "v1", "files": [*files, announce("Icon\r", b"x")]}
    )
    assert answer.status_code == 201
    assert "Icon\r" in answer.json()["dropped"]

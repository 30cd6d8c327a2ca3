"""What the command line prints of others' text: no escape sequence, no mark-up and no second line comes out of it."""

import json
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest

from app.cli.output import fail, print_json, print_json_line, print_table, progress_bar, say

HOSTILE = [
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\", "\x9b2J", "over\rwritten",
    "a\x08b", "a\u202eb", "\u2066x", "a\u2028b", "a\u200bb", "\ud800", "\x00", "\x7f", "[red]x[/red]", "[link=http://evil.example]x[/link]",
    ":boom:", "[bold", "<script>alert(1)</script>", "](javascript:alert(1))",
]  # fmt: skip


def raw(text: str) -> list[str]:
    """The characters that are more than text, line ends apart."""
    return [c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


def failing(text: str) -> None:
    with pytest.raises(SystemExit):
        fail("x.y", text)


def bar(text: str) -> None:
    with progress_bar(text, 10) as advance:
        advance(10)


PRINTERS: dict[str, Callable[[str], Any]] = {
    "say": say, "error": failing, "cell": lambda text: print_table(("a", "b"), [(text, 1)]),
    "column": lambda text: print_table((text, "b"), [("x", None)]), "title": lambda text: print_table(("a",), [("x",)], text),
    "json": lambda text: print_json({text: [text]}),
    "lines": lambda text: print_json_line(json.dumps({"a": text}, ensure_ascii=False)),
}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("printer", PRINTERS)
def test_control_characters_and_markup_are_escaped(
    printer: str, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    PRINTERS[printer](text)
    printed = capsys.readouterr()
    out = printed.out + printed.err
    assert raw(out) == []
    if not raw(text):
        assert text in out.replace("\n", "") or json.dumps(text)[1:-1] in out


@pytest.mark.parametrize("text", HOSTILE)
def test_json_output_keeps_values(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Programs read what was said; only the spelling of control characters differs."""
    print_json({"a": text, "\U000e0041": "\u00e9\u4e2d"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"a": text, "\U000e0041": "\u00e9\u4e2d"}
    assert "\u00e9\u4e2d" in out


@pytest.mark.parametrize("text", ["a\nportllm: all is well", "a\r\nb", "a\tb"])
def test_line_breaks_are_escaped(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(text)
    failing(text)
    printed = capsys.readouterr()
    assert (printed.out.count("\n"), printed.err.count("\n")) == (1, 1)


def test_label_of_a_progress_bar_is_escaped(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, where the bar itself is drawn by escape sequences."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    bar("[red]x\x1b]0;title\x07")
    err = capsys.readouterr().err
    assert "[red]x\\x1b]0;title\\x07" in err

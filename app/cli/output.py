"""How the command line speaks: tables and progress for people, JSON for programs, one sentence for errors.

All output of the commands goes through this module (enforced by tests/house), because most of it is untrusted text: from a
registry, a hub, or the description of a patch. Control characters are shown as escapes, and nothing is interpreted as mark-up of
rich.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol, TextIO

from app.text import visible, visible_json


class Advance(Protocol):
    """Told how much more is done, and optionally the total."""

    def __call__(self, more: int, total: int | None = None, /) -> None: ...


EXIT_FAILED = 1
EXIT_USAGE = 2


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print_json_line(json.dumps(value, indent=2, ensure_ascii=False))


def print_json_line(text: str, file: TextIO | None = None) -> None:
    """Writes serialised JSON to standard output or a file, adds a line end, and flushes it for programs that read along."""
    file = file or sys.stdout
    file.write(f"{visible_json(text)}\n")
    file.flush()


def say(text: str = "", err: bool = False) -> None:
    """Prints one line for people to standard output or standard error; line breaks within it are escaped."""
    (sys.stderr if err else sys.stdout).write(f"{visible(text)}\n")


def fail(code: str, message: str, as_json: bool = False, exit_code: int = EXIT_FAILED) -> NoReturn:
    """Ends with one sentence on standard error; with `--json` also the error as an object on standard output."""
    if as_json:
        print_json({"error": {"code": code, "message": message}})
    say(f"portllm: {message} [{code}]", err=True)
    raise SystemExit(exit_code)


def fail_row(row: Mapping[str, Any], as_json: bool) -> NoReturn:
    """Ends with the problem of a thing that came to nothing; with `--json` the thing is printed with its error, as by `fail`."""
    problem = row["problem"]
    error = {"code": problem["code"], "message": f"{problem['detail']} {problem['remedy']}"}
    if as_json:
        print_json({**row, "error": error})
    fail(error["code"], error["message"])


def fail_file(error: OSError, as_json: bool) -> NoReturn:
    """Ends with the sentence for a file or disk of this machine that cannot be used."""
    reason = error.strerror or str(error)
    fail("client.file", f"{error.filename}: {reason}." if error.filename else f"{reason}.", as_json)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> None:
    """A table for people."""
    from rich.console import Console  # noqa: PLC0415  rich costs 50 ms that `--json` need not pay
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    def plain(cell: Any) -> Text:  # in a str, rich would interpret "[red]" and ":smile:"
        return Text("" if cell is None else visible(str(cell), keep="\n"))

    table = Table(title=plain(title) if title else None, title_justify="left")
    for column in columns:
        table.add_column(plain(column), overflow="fold")
    for row in rows:
        table.add_row(*map(plain, row))
    Console().print(table)


@contextmanager
def progress_bar(label: str, total: int | None, unit: str = "bytes") -> Iterator[Advance]:
    """A progress bar on standard error where that is a terminal; yields a function that is told how much more is done (and the
    total, where it was not known before).
    """
    if not sys.stderr.isatty():
        yield lambda _more, _total=None: None
        return
    from rich import progress as bars  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    amounts = (bars.DownloadColumn(), bars.TransferSpeedColumn()) if unit == "bytes" else (bars.MofNCompleteColumn(),)
    columns = (bars.TextColumn("{task.description}", markup=False), bars.BarColumn(), *amounts, bars.TimeRemainingColumn())
    with bars.Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(visible(label), total=total)
        yield lambda more, known=None: progress.update(task, advance=more, total=known or total)

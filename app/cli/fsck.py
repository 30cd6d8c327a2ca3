"""`portllm fsck`: checks the database against the bytes."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from app.cli.db import HERE, Data, database_refusals, require_database
from app.cli.load_settings import read_settings
from app.cli.offline import Json
from app.cli.output import Advance, print_json, print_table, progress_bar, say

if TYPE_CHECKING:
    from app.services.operations.fsck.troubles import Report


def fsck(
    data: Data = HERE,
    quick: Annotated[bool, typer.Option(help="Compare sizes only; do not read every byte.")] = False,
    reaccept: Annotated[
        bool, typer.Option(help="Only hash releases by reference, and accept files with the registered bytes as they lie now.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check database against bytes, also while the service runs. Exit code 1 when something is wrong.

    Changes nothing, but for --reaccept: after files were copied, restored or linked, it records their new identities.
    """
    if reaccept:
        _reaccept(data, as_json)
    from app.runtime import Runtime  # noqa: PLC0415  the service's libraries
    from app.services.operations.fsck.check import check  # noqa: PLC0415
    from app.services.operations.fsck.troubles import Report  # noqa: PLC0415

    settings = read_settings(data, as_json)
    require_database(settings, as_json)
    report = Report()
    with database_refusals(as_json):
        runtime = Runtime(settings)
        runtime.look()
        try:
            with _Bars() as bars:
                for found in check(runtime, quick, bars.tell):
                    report.add(found)
        finally:
            runtime.stop()
    print_json(report.to_dict()) if as_json else _print(report)
    raise SystemExit(0 if report.clean else 1)


def _reaccept(data: Path, as_json: bool) -> NoReturn:
    from app.runtime import Runtime  # noqa: PLC0415  the service's libraries
    from app.services.catalog import reverification  # noqa: PLC0415

    settings = read_settings(data, as_json)
    require_database(settings, as_json)
    outcomes = []
    with database_refusals(as_json):
        runtime = Runtime(settings, merges=False)
        runtime.look()
        try:
            with progress_bar("Hashing releases", reverification.total_bytes(runtime.read), "bytes") as advance:
                outcomes = list(reverification.reaccept(runtime.read, runtime.write, lambda more: advance(more, None)))
        finally:
            runtime.stop()
    if as_json:
        shown = [{"release": o.release, "accepted": o.accepted, "wrong": o.wrong, "reason": o.reason} for o in outcomes]
        print_json({"releases": shown})
    elif outcomes:
        lines = [(o.release, "accepted" if o.accepted else o.reason or f"other bytes in {', '.join(o.wrong)}") for o in outcomes]
        print_table(("release", "outcome"), lines)
    else:
        say("There are no releases that are read from directories.")
    raise SystemExit(0 if all(o.accepted for o in outcomes) else 1)


class _Bars:
    """A progress bar for each thing that is looked at, one after the other."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._what, self._done = "", 0
        self._advance: Advance

    def __enter__(self) -> "_Bars":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def tell(self, what: str, done: int, total: int | None) -> None:
        if what != self._what:
            self._stack.close()
            self._what, self._done = what, 0
            self._advance = self._stack.enter_context(progress_bar(f"Checking {what}", total, what))
        self._advance(done - self._done, total)
        self._done = done


def _print(report: "Report") -> None:
    if report.troubles:
        rows = [(t.code, t.subject, t.detail, t.remedy) for t in report.troubles]
        print_table(("code", "what", "finding", "what to do"), rows)
        say(", ".join(f"{count} {code}" for code, count in sorted(report.counts.items())))
    if report.unseen:
        print_table(("what", "could not be looked at"), [(u.subject, u.reason) for u in report.unseen])
    if report.clean:
        say("Everything that was looked at is as it should be." if report.unseen else "Everything is as it should be.")

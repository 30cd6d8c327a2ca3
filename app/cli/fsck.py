"""`portllm fsck`: checks the database against the bytes."""

from typing import Annotated

import typer

from app.cli.db import HERE, Data, database_refusals, database_settings, require_database
from app.cli.offline import Json
from app.cli.output import print_json, print_table, progress_bar


def fsck(
    data: Data = HERE,
    quick: Annotated[bool, typer.Option(help="Compare sizes only; do not read every byte.")] = False,
    as_json: Json = False,
) -> None:
    """Check database against bytes, also while the service runs; change nothing. Exit code 1 when something is wrong."""
    from app.runtime import Runtime  # noqa: PLC0415  the service's libraries
    from app.services import fsck as service  # noqa: PLC0415

    settings = database_settings(data, as_json)
    require_database(settings, as_json)
    with database_refusals(as_json):
        runtime = Runtime(settings)
        runtime.look()
        try:
            with progress_bar("Checking", None, "digests") as advance, runtime.read() as uow:
                seen = 0

                def progress(done: int, total: int) -> None:
                    nonlocal seen
                    advance(done - seen, total)
                    seen = done

                found = service.check(uow, quick, progress)
        finally:
            runtime.stop()
    if as_json:
        print_json(service.summary(found))
    elif found:
        print_table(("code", "what", "finding"), [(t.code, t.subject, t.detail) for t in found])
    else:
        typer.echo("Everything is as it should be.")
    raise SystemExit(1 if found else 0)

"""`portllm db`: the database's schema, a backup of the embedded one, and the key that its secrets are under."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.load_settings import DATA_VARIABLE, read_settings
from app.cli.output import fail, fail_file, print_json, say

if TYPE_CHECKING:
    from app.settings import Settings

db = typer.Typer(no_args_is_help=True, help="Upgrade, look at and back up the database (PORTLLM_DATABASE_URL, or --data).")

Data = Annotated[Path, typer.Option(envvar=DATA_VARIABLE, help="Data directory, where no PORTLLM_DATABASE_URL is set.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
HERE = Path("portllm-data")


@db.command()
def upgrade(data: Data = HERE, as_json: Json = False) -> None:
    """Bring the schema up to date. Services of the version before go on meanwhile; two upgrades wait for each other."""
    from app import database_upgrade, datadir  # noqa: PLC0415  only this command needs the migrations and the job engine

    settings = read_settings(data, as_json)
    with database_refusals(as_json):
        if settings.is_embedded:
            try:
                datadir.prepare(settings.data, settings.database_url)
            except OSError as error:
                fail_file(error, as_json)
        database_upgrade.upgrade(settings.database_url)
    current(data, as_json)


@db.command()
def current(data: Data = HERE, as_json: Json = False) -> None:
    """Print the revision that the database is at, and the one that this version needs."""
    found, needed = _revisions(data, as_json)
    if as_json:
        print_json({"current": found, "needed": needed})
    else:
        say(f"{found or 'nothing'} (this version needs {needed})")


@db.command()
def check(data: Data = HERE, as_json: Json = False) -> None:
    """Say whether this version can work with the database; exit code 1 if not."""
    from app.db import schema  # noqa: PLC0415
    from app.db.engine import make_engine  # noqa: PLC0415

    settings = read_settings(data, as_json)
    require_database(settings, as_json)
    with database_refusals(as_json):
        engine = make_engine(settings.database_url)
        schema.require_head(engine)
        if not settings.is_embedded:
            schema.require_engine_tables(engine)
        engine.dispose()
    current(data, as_json)


@db.command()
def backup(
    file: Annotated[Path, typer.Argument(help="Where to write the copy; must not be there yet.")],
    data: Data = HERE,
    as_json: Json = False,
) -> None:
    """Copy the embedded database while the service runs (DATA/blobs/sha256 after it), or say how PostgreSQL is copied."""
    from app.db import schema  # noqa: PLC0415

    settings = read_settings(data, as_json)
    if not settings.is_embedded:
        command = schema.dump_command(settings.database_url, file)
        fail("db.backup", f"PostgreSQL is copied by its own tool: run `{command}`, and copy the bytes after it.", as_json)
    require_database(settings, as_json)
    try:
        with database_refusals(as_json):
            schema.backup(settings.database_url, file)
    except FileExistsError:
        fail("db.backup", f"{file} is there already. Choose another name.", as_json)
    except OSError as error:
        fail_file(error, as_json)
    if as_json:
        print_json({"file": str(file), "bytes": file.stat().st_size})
    else:
        kept = settings.blobs or settings.data / "blobs/sha256"
        say(f"{file} ({file.stat().st_size} bytes). Now copy {kept}.")


@db.command()
def reencrypt(data: Data = HERE, as_json: Json = False) -> None:
    """Encrypt all stored secrets anew under PORTLLM_SECRET_KEY, also while the service runs; exit code 1 if one could not be.

    The key that they are under must be in PORTLLM_SECRET_KEYS_ACCEPTED. After it, that key can be forgotten.
    """
    from app.runtime import Runtime  # noqa: PLC0415  the service's libraries
    from app.services.access import encryption  # noqa: PLC0415

    settings = read_settings(data, as_json)
    require_database(settings, as_json)
    with database_refusals(as_json):
        runtime = Runtime(settings, merges=False)
        runtime.look()
        try:
            with runtime.write() as uow:
                done = encryption.reencrypt(uow)
        finally:
            runtime.stop()
    lost = [{"code": error.code, "message": str(error)} for error in done.lost]
    if as_json:
        print_json({"reencrypted": done.renewed, "current": done.fresh, "lost": lost})
    else:
        say(f"{done.renewed} encrypted anew, {done.fresh} were under the present key already, {len(lost)} could not be.")
    for error in lost:
        say(f"portllm: {error['message']} [{error['code']}]", err=True)
    if lost:
        raise SystemExit(1)


def _revisions(data: Path, as_json: bool) -> tuple[str | None, str]:
    from app.db import schema  # noqa: PLC0415
    from app.db.engine import make_engine  # noqa: PLC0415

    settings = read_settings(data, as_json)
    require_database(settings, as_json)
    with database_refusals(as_json):
        engine = make_engine(settings.database_url)
        found = schema.current(engine)
        engine.dispose()
    return found, schema.head()


def require_database(settings: "Settings", as_json: bool) -> None:
    """SQLite would make an empty file of whatever is asked for."""
    if settings.is_embedded and not Path(settings.database_url.partition("///")[2]).exists():
        fail("db.none", f"There is no database in {settings.data}. Name its --data directory.", as_json)


@contextmanager
def database_refusals(as_json: bool) -> Iterator[None]:
    """One sentence for what the database or the disk refuses."""
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from app.domain.errors import DomainError  # noqa: PLC0415

    try:
        yield
    except DomainError as error:
        fail(error.code, str(error), as_json)
    except SQLAlchemyError as error:
        fail("db.failed", f"{str(error).splitlines()[0]}.", as_json)

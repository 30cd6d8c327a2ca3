"""The entry point `portllm`: assembles the verbs."""

import importlib.metadata
import os
import sys
from typing import Annotated

import typer

from app.cli import (
    audit,
    base_aliases,
    config,
    db,
    families,
    fsck,
    garbage,
    imports,
    jobs,
    login,
    materialise,
    offline,
    patches,
    ports,
    purge,
    quotas,
    releases_and_patches,
    serve,
    serving,
    show,
    tokens,
    upstreams,
    worker,
)
from app.cli.quickstart import command

cli = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="PortLLM Registry: carries LoRA patches to new releases of their base model.",
)  # fmt: skip


def _tell_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(importlib.metadata.version("portllm-registry") + "\n")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit.")]


@cli.callback()
def _everywhere(_: Version = False) -> None:
    """Options before any verb."""


cli.command()(command.quickstart)
cli.command()(serve.serve)
cli.command()(worker.worker)
cli.add_typer(db.db, name="db")
cli.command()(config.config)
cli.command()(fsck.fsck)
cli.command()(garbage.gc)
cli.command()(offline.merge)
cli.command()(offline.inspect)
families.family.add_typer(base_aliases.alias, name="alias")
cli.add_typer(families.family, name="family")
cli.add_typer(releases_and_patches.release, name="release")
releases_and_patches.patch.command("import")(imports.patch_import)
releases_and_patches.patch.command("create")(patches.patch_create)
releases_and_patches.patch.command("set")(patches.patch_set)
releases_and_patches.patch.command("publish")(patches.patch_publish)
cli.add_typer(releases_and_patches.patch, name="patch")
tokens.token.command("exchange")(login.exchange)
cli.add_typer(tokens.token, name="token")
cli.add_typer(quotas.quota, name="quota")
cli.add_typer(upstreams.upstream, name="upstream")
cli.command()(login.login)
cli.command()(login.logout)
cli.command()(purge.purge)
cli.command()(ports.port)
cli.command()(ports.approve)
cli.command()(ports.retire)
cli.command()(ports.pull)
cli.command()(ports.digest)
cli.command()(serving.serving)
cli.command()(materialise.materialise)
cli.add_typer(jobs.jobs, name="jobs")
cli.command()(jobs.workers)
cli.command()(jobs.events)
cli.command()(audit.audit)
cli.command()(releases_and_patches.ls)
cli.command()(show.show)


def main() -> None:
    """Runs the command line."""
    try:
        cli()
    except SystemExit as end:
        # Python would take torch apart, module by module, for longer than many a merge takes.
        if sys.argv[1:2] in (["merge"], ["inspect"]) and isinstance(end.code, int | None):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code or 0)
        raise


if __name__ == "__main__":
    main()

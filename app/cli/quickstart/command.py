"""`portllm quickstart`: plays the story and prints the paper's table."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Annotated

import typer

from app.cli.output import fail


def quickstart(
    directory: Annotated[
        Path, typer.Option("--dir", help="Where models and the registry's data go; an earlier run's is replaced.")
    ] = Path(".quickstart"),
    serve: Annotated[bool, typer.Option(help="Leave the service running at the end, until Ctrl-C.")] = False,
    small: Annotated[bool, typer.Option(help="Tiny sizes: seconds instead of minutes, with numbers that mean little.")] = False,
) -> None:
    """Train small releases and a patch on real text, carry the patch through the registry, and print what survives."""
    # Threads that spin while they wait make small models several times slower as soon as another program runs beside them.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import httpx  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    from app.cli.client import RefusedError  # noqa: PLC0415
    from app.cli.quickstart import story  # noqa: PLC0415  torch, transformers and peft
    from app.cli.quickstart.corpus import CorpusError  # noqa: PLC0415
    from app.cli.quickstart.scale import Scale  # noqa: PLC0415
    from app.cli.quickstart.service import ServiceError, running_service  # noqa: PLC0415
    from app.core.errors import CoreError  # noqa: PLC0415

    console, started = Console(), time.monotonic()
    work, scale, stages = directory.resolve(), Scale.small() if small else Scale.full(), story.Stages(console)
    try:
        story.prepare_directory(work)
        corpus, names = story.make_vendor(work, scale, stages)
        for note in corpus.notes:
            console.print(note)
        patch = story.make_patch(work, names[0], "patch", corpus, scale, stages)
        with running_service(work / "registry", work / "releases") as service:
            fidelity = story.carry(work, service, names, patch, stages)
            fresh = story.make_patch(work, names[-1], "fresh-patch", corpus, scale, stages)
            rows = story.measure(work, names, story.held_out(corpus, scale), fidelity, fresh, stages)
            console.print()
            console.print(story.table(rows))
            console.print(f"Done in {time.monotonic() - started:.0f} s.")
            console.print(_next_steps(work, names, service.url if serve else None), highlight=False, soft_wrap=True)
            if serve:
                with contextlib.suppress(KeyboardInterrupt):
                    service.process.wait()
    except (CorpusError, ServiceError, CoreError, RefusedError, httpx.HTTPError, OSError, RuntimeError) as error:
        fail("quickstart.failed", str(error))


def _next_steps(work: Path, names: list[str], url: str | None) -> str:
    last = names[-1]
    start = (
        f"The service is running on {url}; stop it with Ctrl-C. In another terminal:\n"
        f"  export PORTLLM_URL={url} PORTLLM_TOKEN=$(cat {work}/registry/admin-token)\n"
        if url
        else "Start the service on what was made (or run the quickstart with --serve):\n"
        f"  portllm serve --data {work}/registry --allow-root {work}/releases &\n"
        f"  export PORTLLM_TOKEN=$(cat {work}/registry/admin-token)\n"
    )
    return (
        f"\nTry next (with the virtual environment active: . .venv/bin/activate).\n{start}"
        "  portllm ls releases\n"
        "  portllm show acme/file-kinds\n"
        f"  portllm port acme/file-kinds --to {last} --dtype float32\n"
        f"  portllm pull acme/file-kinds --on {last} ./merged\n"
        f"  portllm inspect {work}/releases/{names[0]} {work}/releases/{last} {work}/patch\n"
        f"  portllm merge {work}/releases/{last} {work}/patch ./merged-offline\n"
    )

"""The story of the quickstart: a vendor's releases, a customer's patch, and the registry between them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from app.cli.client import Client
from app.cli.ingest import add_release, wait_release
from app.cli.pull import pull_port
from app.cli.quickstart.corpus import MIXTURES, Corpus, Example, gather, sample_examples
from app.cli.quickstart.evaluate import accuracy, drift
from app.cli.quickstart.models import continue_pretraining, train_base, train_patch
from app.cli.quickstart.scale import Progress, Scale, silent
from app.cli.quickstart.service import Service
from app.cli.quickstart.tokenizer import token_streams, train_tokenizer
from app.cli.upload import push_patch

FAMILY = "snippets"
OWNER, PATCH = "acme", "file-kinds"
MARKER = ".portllm-quickstart"


@dataclass(frozen=True)
class Row:
    """One line of the paper's table; shares are 0 to 1, None where nothing was measured."""

    release: str
    drift: float
    base: float
    ported: float
    fidelity: float
    fresh: float | None


class Stages:
    """Progress bars, one for each stage; plain lines where nobody watches."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def stage(self, label: str) -> Iterator[Progress]:
        """A bar for one stage; yields the function that its worker reports to."""
        if not self._console.is_terminal:
            started = time.monotonic()
            yield silent
            self._console.print(f"{label}: {time.monotonic() - started:.1f} s", highlight=False)
            return
        columns = (TextColumn(f"{label:<50}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Bars(*columns, console=self._console) as bars:
            task = bars.add_task("", total=1)
            yield lambda done, total, _note: bars.update(task, completed=done, total=total)
            bars.update(task, completed=bars.tasks[task].total)


def prepare_directory(work: Path) -> None:
    """An empty directory for the run; one that an earlier run left is emptied, any other is left alone.

    Raises:
        FileExistsError: it holds something else.
    """
    if work.exists() and any(work.iterdir()) and not (work / MARKER).exists():
        raise FileExistsError(f"{work} holds something that no quickstart made; choose another directory with --dir.")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / MARKER).touch()


def make_vendor(work: Path, scale: Scale, stages: Stages) -> tuple[Corpus, list[str]]:
    """Trains the vendor's releases below `work/releases`; returns the corpus and the names of the releases."""
    with stages.stage("Gathering text from this Python installation") as progress:
        corpus = gather(scale, progress=progress)
    with stages.stage("Training a tokenizer"):
        tokenizer = train_tokenizer(corpus, scale)
        streams = token_streams(corpus, tokenizer)
    names = list(MIXTURES)
    for parent, name in zip([None, *names], names, strict=False):
        target = work / "releases" / name
        if parent is None:
            with stages.stage(f"Vendor: pretraining release {name}") as progress:
                train_base(target, tokenizer, streams, MIXTURES[name], scale, progress=progress)
        else:
            with stages.stage(f"Vendor: release {name}, {parent} trained further") as progress:
                source = work / "releases" / parent
                continue_pretraining(source, target, streams, MIXTURES[name], scale, progress=progress)
    return corpus, names


def make_patch(work: Path, release: str, target: str, corpus: Corpus, scale: Scale, stages: Stages) -> Path:
    """Trains the customer's patch on a release; returns its directory."""
    with stages.stage(f"Customer: fine-tuning a LoRA patch on {release}") as progress:
        train_patch(
            work / "releases" / release, work / target, corpus.train, corpus.kinds, scale,
            base_name=f"base/{FAMILY}", progress=progress,
        )  # fmt: skip
    return work / target


def carry(work: Path, service: Service, names: list[str], patch: Path, stages: Stages) -> dict[str, float]:
    """Registers the releases, publishes the patch, ports it to every release, and pulls the merged models.

    Returns:
        Merge fidelity by release; the merged models lie below `work/merged`.
    """
    client = Client(service.url, service.token)
    fidelity = {}
    with stages.stage("Registry: registering the releases") as progress:
        for done, (parent, name) in enumerate(zip([None, *names], names, strict=False), 1):
            row = wait_release(client, add_release(client, FAMILY, name, work / "releases" / name, parent))
            if row["state"] != "ready":
                raise RuntimeError(f"Release {name} was rejected: {row['problem']['detail']}")
            progress(done, len(names), name)
    with stages.stage(f"Registry: publishing {OWNER}/{PATCH}"):
        push_patch(client, OWNER, PATCH, patch, FAMILY, names[0])
    with stages.stage("Registry: porting and pulling merged models") as progress:
        for done, name in enumerate(names, 1):
            port = client.post("/ports", {"patch": f"{OWNER}/{PATCH}", "release": name})
            if port["state"] != "ready":
                raise RuntimeError(f"The port to {name} is {port['state']}: {port['findings']}")
            fidelity[name] = port["fidelity"]["overall"]
            pull_port(client, port["id"], work / "merged" / name, compute_digests=True)
            progress(done, len(names), name)
    return fidelity


def measure(
    work: Path, names: list[str], examples: list[Example], fidelity: dict[str, float], fresh: Path, stages: Stages
) -> list[Row]:
    """Measures every release alone, with the ported patch, and the last one with a patch trained afresh on it."""
    rows = []
    with stages.stage("Measuring on held-out files") as progress:
        for done, name in enumerate(names, 1):
            release = work / "releases" / name
            afresh = accuracy(release, examples, adapter_dir=fresh) if name == names[-1] else None
            rows.append(
                Row(
                    name, drift(work / "releases" / names[0], release), accuracy(release, examples),
                    accuracy(work / "merged" / name, examples), fidelity[name], afresh,
                )
            )  # fmt: skip
            progress(done, len(names), name)
    return rows


def table(rows: list[Row]) -> Table:
    """The paper's table."""
    found = Table(title="Labelling snippets of held-out files (share that is right)", title_justify="left")
    for column in ("release", "drift from v1", "base alone", "ported patch", "patch trained afresh", "merge fidelity"):
        found.add_column(column, justify="left" if column == "release" else "right")
    for row in rows:
        fresh = "" if row.fresh is None else f"{row.fresh:.1%}"
        found.add_row(row.release, f"{row.drift:.1%}", f"{row.base:.1%}", f"{row.ported:.1%}", fresh, f"{row.fidelity:.1%}")
    return found


def held_out(corpus: Corpus, scale: Scale) -> list[Example]:
    """The snippets that accuracy is measured on."""
    return list(sample_examples(corpus.heldout, corpus.kinds, scale.heldout_examples, scale.snippet_chars, scale.seed))

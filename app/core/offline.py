"""The offline verbs: merge and inspect between directories, with nothing but `core`."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.core import arithmetic
from app.core.adapter import WEIGHTS_FILE
from app.core.checkpoint import Checkpoint, list_files, read_checkpoint
from app.core.companion_files import judge_left_out, judge_releases, judge_tokenizers
from app.core.delta import Delta
from app.core.diagnostics import (  # fmt: skip
    Fidelity,
    assess_effect,
    check_effect,
    judge_fidelity,
    judge_lineage,
    measure_fidelity,
    measure_lineage,
)
from app.core.errors import CoreError
from app.core.findings import Finding, refusal
from app.core.materialise import write_model
from app.core.patch import Patch, check_finite, read_patch, run_prepass
from app.core.plan import MergePlan, make_plan
from app.core.recipe import Recipe
from app.core.source import DirectorySource
from app.core.stream import Merger
from app.core.tokenizers import TOKENIZER_FILES

# A tenth of a second for a model of 1.1 billion parameters, beside seconds of merging; `inspect` looks closer.
MERGE_SAMPLE_BYTES = 4 * 2**20


@dataclass(frozen=True)
class ModelDirectory:
    """A model directory that is open for reading."""

    root: Path
    source: DirectorySource
    files: Mapping[str, int]

    def digests(self) -> dict[str, str]:
        """sha256 by path of its tokenizer files."""
        return _tokenizer_digests(self.root, self.files)


@contextmanager
def open_directory(root: Path) -> Iterator[ModelDirectory]:
    files = list_files(root)
    with DirectorySource(root) as source:
        yield ModelDirectory(root, source, files)


@contextmanager
def open_merger(base_dir: Path, patch_dir: Path, recipe: Recipe) -> Iterator[tuple[Merger, Checkpoint, Patch]]:
    """Opens a base and a patch and plans their sum; every refusal comes before a byte of the base's weights is read.

    Raises:
        CoreError: any refusal.
    """
    with open_directory(base_dir) as base, open_directory(patch_dir) as patch:
        checkpoint = read_checkpoint(base.source, base.files)
        opened = read_patch(patch.source, patch.files)
        torch = arithmetic.load()
        deltas = opened.adapter.resolve(checkpoint, run_prepass(opened, patch.source, checkpoint, base.source, torch))
        plan = make_plan(checkpoint, deltas, recipe, opened.files)
        sources = {"base": base.source, "patch": patch.source}
        merger = Merger(plan, sources, WEIGHTS_FILE, opened.header.data_start, torch)
        check_finite(opened, patch.source, torch)
        check_effect(merger)
        yield merger, checkpoint, opened


def merge(
    base_dir: Path,
    patch_dir: Path,
    out_dir: Path,
    recipe: Recipe | None = None,
    on_plan: Callable[[MergePlan], Callable[[int], None]] | None = None,
    synced: bool = True,
    on_findings: Callable[[tuple[Finding, ...]], None] | None = None,
) -> MergePlan:
    """Writes the merged model of a base and a patch.

    Args:
        base_dir: a base model as save_pretrained writes it.
        patch_dir: a LoRA patch as PEFT writes it.
        out_dir: where the merged model appears; must not exist or be empty.
        recipe: the choices; plain addition by default.
        on_plan: told the plan before the work begins; what it returns is told of every run of bytes written.
        synced: see `write_model`.
        on_findings: told before the work begins what is worth knowing about this merge; nothing is measured without it.

    Raises:
        CoreError: any refusal; nothing is left behind.
    """
    recipe = recipe or Recipe()
    with open_merger(base_dir, patch_dir, recipe) as (merger, checkpoint, patch):
        if on_findings:
            own = _tokenizer_digests(patch_dir, patch.files)
            theirs = _tokenizer_digests(base_dir, checkpoint.files) if own else {}
            fidelity = measure_fidelity(merger, arithmetic.load(), MERGE_SAMPLE_BYTES)
            found = [*judge_tokenizers(own, theirs, recipe), *judge_fidelity(fidelity), *judge_left_out(checkpoint.left_out)]
            on_findings(tuple(f for f in found if f.severity != "refuse"))  # the merge itself ends with those
        write_model(merger, out_dir, on_plan(merger.plan) if on_plan else None, synced=synced)
        return merger.plan


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found: can this patch be carried from the old base to the new one, and why."""

    findings: tuple[Finding, ...]
    deltas: tuple[Delta, ...]
    fidelity: Fidelity | None

    @property
    def portable(self) -> bool:
        return all(f.severity != "refuse" for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        return {
            "portable": self.portable,
            "findings": [f.to_dict() for f in self.findings],
            "fidelity": self.fidelity.to_dict() if self.fidelity else None,
            "tensors_changed": len(self.deltas),
        }


def inspect(old_dir: Path, new_dir: Path, patch_dir: Path, recipe: Recipe | None = None) -> Inspection:
    """Says whether a patch that was trained on one base can be carried to another.

    Raises:
        CoreError: one of the directories is not what it should be; misfits between them are findings.
    """
    recipe = recipe or Recipe()
    torch = arithmetic.load()
    with open_directory(old_dir) as old, open_directory(new_dir) as new, open_directory(patch_dir) as patch:
        before, after = read_checkpoint(old.source, old.files), read_checkpoint(new.source, new.files)
        opened = read_patch(patch.source, patch.files)
        opened.adapter.resolve(before, run_prepass(opened, patch.source, before, old.source, torch))
        check_finite(opened, patch.source, torch)
        findings = [*judge_releases(before.config, old.digests(), after.config, new.digests())]
        findings += judge_tokenizers(patch.digests(), new.digests(), recipe)
        try:
            deltas = opened.adapter.resolve(after, run_prepass(opened, patch.source, after, new.source, torch))
            plan = make_plan(after, deltas, recipe, opened.files)
        except CoreError as error:
            return Inspection((refusal(error), *findings), (), None)
        lineage = measure_lineage(before, old.source, after, new.source, torch)
        findings += judge_lineage(lineage, (d.tensor for d in deltas))
        merger = Merger(plan, {"base": new.source, "patch": patch.source}, WEIGHTS_FILE, opened.header.data_start, torch)
        fidelity, judged = assess_effect(merger, torch)
        return Inspection((*findings, *judged, *judge_left_out(after.left_out)), deltas, fidelity)


def _tokenizer_digests(root: Path, files: Iterable[str]) -> dict[str, str]:
    return {p: hashlib.sha256((root / p).read_bytes()).hexdigest() for p in files if p in TOKENIZER_FILES}

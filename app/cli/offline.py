"""`portllm merge` and `portllm inspect`: need no server and no database."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import Dtype, Strategy, Tokenizer
from app.cli.output import fail, fail_file, print_json, print_table, progress_bar, say
from app.core.errors import CoreError
from app.core.findings import Finding
from app.core.plan import MergePlan
from app.core.recipe import PLAIN, Recipe

SEVERITIES = {"refuse": "error", "warn": "warning", "info": "note"}
Sync = Annotated[
    bool, typer.Option(help="Wait until all of it is on the disk, whole even after a power failure; --no-sync returns sooner.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def merge(
    base_dir: Path,
    patch_dir: Path,
    out_dir: Path,
    dtype: Dtype = None,
    tokenizer: Tokenizer = "release",
    strategy: Strategy = PLAIN.strategy,
    sync: Sync = True,
    as_json: Json = False,
) -> None:
    """Add a LoRA patch to a base model and write the merged model to a new directory."""
    from app.core import offline  # noqa: PLC0415  torch is imported by the verbs that merge, not by `portllm --help`

    findings: list[Finding] = []

    def tell(found: tuple[Finding, ...]) -> None:
        findings.extend(found)
        for finding in found:
            say(f"portllm: {SEVERITIES[finding.severity]}: {finding.message} [{finding.code}]", err=True)

    with ExitStack() as stack:

        def bar(plan: MergePlan) -> Callable[[int], None]:
            return stack.enter_context(progress_bar("Merging", plan.total_bytes))

        try:
            plan = offline.merge(base_dir, patch_dir, out_dir, Recipe(strategy, dtype, tokenizer), bar, sync, tell)
        except CoreError as error:
            fail(error.code, str(error), as_json)
        except OSError as error:
            fail_file(error, as_json)
    if as_json:
        told = [f.to_dict() for f in findings]
        print_json({"out": str(out_dir), "bytes": plan.total_bytes, "tensors_changed": len(plan.deltas), "findings": told})
    else:
        say(f"{out_dir}: {len(plan.deltas)} tensors changed, {plan.total_bytes:,} bytes.")


def inspect(
    old_base: Path,
    new_base: Path,
    patch_dir: Path,
    dtype: Dtype = None,
    tokenizer: Tokenizer = "release",
    strategy: Strategy = PLAIN.strategy,
    as_json: Json = False,
) -> None:
    """Say whether a patch trained on one base can be carried to another, and why. Exit code 1 when it cannot."""
    from app.core import offline  # noqa: PLC0415

    try:
        found = offline.inspect(old_base, new_base, patch_dir, Recipe(strategy, dtype, tokenizer))
    except CoreError as error:
        fail(error.code, str(error), as_json)
    except OSError as error:
        fail_file(error, as_json)
    if as_json:
        print_json(found.to_dict())
    else:
        print_table(("severity", "code", "finding"), [(f.severity, f.code, f.message) for f in found.findings])
        if found.fidelity:
            say(
                f"Merge fidelity {found.fidelity.overall:.4f}, worst {found.fidelity.worst:.4f} in {found.fidelity.worst_tensor}."
            )
        say("The patch can be carried over." if found.portable else "The patch cannot be carried over.")
    raise SystemExit(0 if found.portable else 1)

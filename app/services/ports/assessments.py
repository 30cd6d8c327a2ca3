"""Assessments: whether a patch version can be carried to a release, and why. Computed outside transactions, and cached.

An assessment reads headers and samples of weights, and publishers may request any number of them. Admission control therefore
bounds how many run at once (`Tools.checks`), and each is computed once for a version, release and recipe, whose bytes never
change. Refusals are cached as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app.core.companion_files import judge_left_out, judge_releases, judge_tokenizers
from app.core.diagnostics import Lineage, assess_effect, judge_lineage, measure_lineage
from app.core.errors import AdapterError, HeaderError, PortError
from app.core.findings import Finding, refusal
from app.core.recipe import Recipe
from app.db.patches import PatchVersion
from app.db.releases import Release
from app.services.artifacts.artifacts import digests_of
from app.services.tools import Assessment, Tools


@dataclass(frozen=True)
class Case:
    """The subject of an assessment, as it was read from the database.

    Attributes:
        lineage: the known similarity of this release to the one that the patch was trained on; None if it was never sampled.
    """

    version: PatchVersion
    release: Release
    recipe: Recipe
    lineage: dict[str, Any] | None


def assess(tools: Tools, case: Case) -> tuple[Assessment, Lineage | None]:
    """Assesses whether a patch can be carried to a release, and why. No transaction may be open, because this reads bytes.

    Returns:
        The assessment, and the lineage if it was sampled by this call.

    Raises:
        DomainError: server.busy; storage.unavailable, among others, if bytes cannot be read.
        CoreError: bytes of the release or of the patch have changed. A patch that does not fit is a finding, not an error.
    """
    library, sampled, made = tools.artifacts, list[Lineage](), list[Assessment]()

    def make() -> Assessment:
        with tools.checks.hold(case.version.owner):
            made.append(_made(tools, case, sampled))
        return made[0]

    found = library.assessment(case.release, case.version, case.recipe, make)
    if not made and found.tensors_changed:  # a cached assessment does not show that bytes were changed or lost since
        library.require_readable(case.release, case.version)
    return found, sampled[0] if sampled else None


def _made(tools: Tools, case: Case, sampled: list[Lineage]) -> Assessment:
    library, findings = tools.artifacts, list(_companions(tools, case))
    try:
        plan = library.plan(case.release, case.version, case.recipe)
    except (AdapterError, HeaderError, PortError) as error:
        return Assessment((refusal(error), *findings), None, 0)
    lineage = _lineage(tools, case, sampled)
    if lineage:
        findings += judge_lineage(lineage, [delta.tensor for delta in plan.deltas])
    with library.open_merger(case.release, case.version, case.recipe, tools.arithmetic()) as merger:
        fidelity, judged = assess_effect(merger, tools.arithmetic())
    findings += judged
    return Assessment(tuple(findings), fidelity.to_dict() if fidelity else None, len(plan.deltas))


def _lineage(tools: Tools, case: Case, sampled: list[Lineage]) -> Lineage | None:
    """Returns how similar the release is to the one that the patch was trained on; None if unknown, or if they are the same."""
    old, new, library = case.version.trained_on, case.release, tools.artifacts
    if old is None or old.manifest == new.manifest:
        return None
    if case.lineage:
        return Lineage.from_dict(case.lineage)
    with library.open_release(old) as old_source, library.open_release(new) as new_source:
        sampled.append(
            measure_lineage(
                library.manifest(old).checkpoint, old_source, library.manifest(new).checkpoint, new_source, tools.arithmetic()
            )
        )
    return sampled[0]


def _companions(tools: Tools, case: Case) -> Iterator[Finding]:
    version, release, manifest = case.version, case.release, tools.artifacts.manifest(case.release)
    yield from judge_left_out(manifest.checkpoint.left_out)
    yield from judge_tokenizers(digests_of(version), manifest.file_digests, case.recipe)
    if version.trained_on is None:
        text = "It is not known which release the patch was trained on, so nothing tells whether this one continues it."
        yield Finding("lineage.unknown", "warn", f"{text} Approve the port to go on, or publish the patch with --trained-on.")
    elif version.trained_on_id != release.id:
        old = tools.artifacts.manifest(version.trained_on)
        yield from judge_releases(old.checkpoint.config, old.file_digests, manifest.checkpoint.config, manifest.file_digests)

"""The task of a digest job: computes a whole merged model once, for its digests and its exact fidelity."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

from app.blobs.locations import is_far, open_location
from app.core import arithmetic
from app.core.diagnostics import measure_fidelity
from app.core.readahead import ReadAhead
from app.core.stream import Merger
from app.jobs.tasks.context import ReportProgress, TaskContext
from app.jobs.tasks.merging import open_merger
from app.services.ports.orders import DigestResult, MergeOrder


def run(order: MergeOrder, context: TaskContext) -> DigestResult:
    """Digests the computed files.

    Raises:
        CoreError: the release changed, or a value does not fit the output dtype.
    """
    base = open_location(order.base)
    with open_merger(order, ReadAhead(base) if is_far(base) else base, context.device) as merger:
        tensors = sum(1 for _ in merger.plan.computed_tensors())
        digests = _digest_files(merger, context.start_report(merger.plan.total_bytes, "Merging", tensors))
        fidelity = measure_fidelity(merger, arithmetic.load(context.device), max_bytes=None)
        return DigestResult(digests, fidelity.to_dict() if fidelity else None)


def _digest_files(merger: Merger, report: ReportProgress) -> dict[str, str]:
    digests = {}
    with ThreadPoolExecutor(arithmetic.threads()) as pool:
        for path, file in merger.plan.files.items():
            if file.carried_from:
                report(file.size)
                continue
            hashed, position = hashlib.sha256(), 0
            for data in merger.stream(path, pool=pool):
                hashed.update(data)
                before, position = position, position + len(data)
                report(len(data), file.tensors_within(before, position))
            digests[path] = hashed.hexdigest()
    return digests

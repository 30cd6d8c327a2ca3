"""Mergers with a grid of one's own; `app.core.offline.open_merger` knows only the recipe's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.core.adapter import WEIGHTS_FILE
from app.core.arithmetic import Arithmetic, load
from app.core.checkpoint import read_checkpoint
from app.core.offline import open_directory
from app.core.patch import read_patch
from app.core.plan import make_plan
from app.core.recipe import Recipe
from app.core.stream import Merger
from tests.benchmarks.model import Model


@contextmanager
def mergers(model: Model, computing: Arithmetic | None = None) -> Iterator[Callable[[int], Merger]]:
    """Yields a function from the elements of a block to a merger that has computed nothing yet."""
    with open_directory(model.base) as base, open_directory(model.patch) as patch:
        checkpoint, opened = read_checkpoint(base.source, base.files), read_patch(patch.source, patch.files)
        plan = make_plan(checkpoint, opened.resolve(checkpoint), Recipe(), opened.files)
        sources = {"base": base.source, "patch": patch.source}
        yield lambda elements: Merger(plan, sources, WEIGHTS_FILE, opened.header.data_start, computing or load(), elements)

"""Opens the merged model that an order describes."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from app.blobs.locations import open_location
from app.core import arithmetic
from app.core.adapter import WEIGHTS_FILE
from app.core.manifest import Manifest
from app.core.patch import read_patch
from app.core.plan import make_plan
from app.core.source import Source, read_range
from app.core.stream import Merger
from app.services.ports.orders import MergeOrder

MANIFEST = "manifest"


@contextmanager
def open_merger(order: MergeOrder, base: Source, device: str) -> Iterator[Merger]:
    """Opens the merged model of an order on a base, which is closed at the end."""
    with closing(base), closing(open_location(order.patch)) as patch_source, closing(open_location(order.manifest)) as held:
        manifest = Manifest.parse(read_range(held, MANIFEST, 0, held.size(MANIFEST)))
        patch = read_patch(patch_source, order.patch_sizes)
        deltas = patch.resolve(manifest.checkpoint)
        plan = make_plan(manifest.checkpoint, deltas, order.recipe, patch.files)
        computing = arithmetic.load(device)
        yield Merger(plan, {"base": base, "patch": patch_source}, WEIGHTS_FILE, patch.header.data_start, computing)

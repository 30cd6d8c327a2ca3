"""Makes the order of a merged model."""

from app.core.recipe import Recipe
from app.db.ports import Port
from app.services.artifacts.artifacts import MANIFEST, digests_of
from app.services.ports.orders import MergeOrder
from app.services.tools import Tools


def merge_order(tools: Tools, port: Port) -> MergeOrder:
    """Returns everything that a process needs to compute the merged model of a port.

    Raises:
        DomainError: release.damaged, blob.missing.
    """
    version, release = port.version, port.release
    return MergeOrder(
        tools.blobs.location({MANIFEST: str(release.manifest)}),
        tools.artifacts.release_location(release),
        tools.blobs.location(digests_of(version)),
        {file["path"]: file["size"] for file in version.files},
        Recipe.from_dict(port.recipe),
    )

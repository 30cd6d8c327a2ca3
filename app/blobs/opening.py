"""Opens a blob store in a job's process, for downloads that are staged piece by piece and must survive the process."""

from pathlib import Path

from app.blobs.local import LocalBlobs
from app.blobs.locations import S3Store, StoreLocation
from app.blobs.s3.store import S3Blobs
from app.blobs.store import BlobStore


def open_store(location: StoreLocation) -> BlobStore:
    """Returns the store at a location that `BlobStore.where` returned."""
    if isinstance(location, S3Store):
        return S3Blobs(location.address, direct=False)
    return LocalBlobs(Path(location.root))

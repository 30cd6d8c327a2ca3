"""Stores as plain values, which a job's process can open: for what arrives piece by piece and must survive the process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.blobs.local import LocalBlobs
from app.blobs.s3.store import S3Blobs
from app.blobs.store import BlobStore


def open_store(where: Mapping[str, Any]) -> BlobStore:
    """The store that said `where` it is: {"kind": "directory", "root"} or {"kind": "s3", "place"}."""
    return S3Blobs(where["place"], direct=False) if where["kind"] == "s3" else LocalBlobs(Path(where["root"]))

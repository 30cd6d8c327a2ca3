"""A blob store of which one operation waits, so that a test can act while it runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from app.blobs.store import BlobStore
from app.runtime import Runtime

PATIENCE = 60


class HaltedBlobs:
    """A blob store whose method `halted` counts its calls in `calls` and waits for `go_on`."""

    def __init__(self, blobs: BlobStore, halted: str) -> None:
        self._blobs, self._halted = blobs, halted
        self.calls, self.go_on = threading.Semaphore(0), threading.Event()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._blobs, name)
        if name != self._halted:
            return method

        def wait(*arguments: Any) -> Any:
            self.calls.release()
            assert self.go_on.wait(PATIENCE)
            return method(*arguments)

        return wait


@contextmanager
def halted(runtime: Runtime, method: str) -> Iterator[HaltedBlobs]:
    """Replaces the blob store of a registry while the block lasts."""
    tools, blobs = runtime.tools, HaltedBlobs(runtime.tools.blobs, method)
    runtime.tools = replace(tools, blobs=blobs)
    try:
        yield blobs
    finally:
        blobs.go_on.set()
        runtime.tools = tools

"""Files that are served unchanged: of a release, of a patch version, or a given text."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from app.core.readahead import BLOCK_BYTES
from app.core.source import Source, read_range
from app.db.patches import PatchVersion
from app.db.releases import Release
from app.services.artifacts.file_reads import Content
from app.services.tools import OpenArtifacts, Tools

PIECE_BYTES = 2**20


def release_content(tools: Tools, release: Release, path: str, start: int, stop: int, owner: str) -> Content:
    """Returns the content of bytes [start, stop) of a release's file, read by `owner`.

    A large read from an object store reads blocks ahead, so it needs a slot (admission control). A read from a directory, or a
    small one, keeps one piece in memory at a time and needs none.
    """
    artifacts = tools.artifacts
    if not artifacts.is_far(release) or stop - start <= BLOCK_BYTES:
        return Content(partial(_pieces, partial(artifacts.open_release, release), path, stop))
    opens = partial(artifacts.open_release, release, in_order=True)
    return Content(partial(_pieces, opens, path, stop), tools.far_reads, owner)


def patch_content(artifacts: OpenArtifacts, version: PatchVersion, path: str, digest: str, stop: int) -> Content:
    """Returns the content of a version's file, as it was published, up to byte `stop`."""
    return Content(partial(_pieces, partial(artifacts.open_file, version, path, digest), path, stop))


def text_content(text: bytes, stop: int) -> Content:
    """Returns a text as content, up to byte `stop`."""

    @contextmanager
    def opened(start: int) -> Iterator[Iterator[memoryview]]:
        yield iter((memoryview(text)[start:stop],))

    return Content(opened)


@contextmanager
def _pieces(
    opens: Callable[[], AbstractContextManager[Source]], path: str, stop: int, start: int
) -> Iterator[Iterator[memoryview]]:  # fmt: skip
    with opens() as source:
        offsets = range(start, stop, PIECE_BYTES)
        yield (memoryview(read_range(source, path, offset, min(PIECE_BYTES, stop - offset))) for offset in offsets)

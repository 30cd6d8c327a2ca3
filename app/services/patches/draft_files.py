"""What of a draft has arrived, and which of its files need not be sent again because they were verified before.

Only what was sent for drafts of the same patch counts. Whether the store holds the bytes of a digest is never told by
itself: who knows a digest would else learn whether somebody has the file, and could publish it without having it.
"""

from collections.abc import Iterable
from typing import Any

from app.db import patches as rows
from app.db.patches import PatchVersion
from app.services.tools import Tools
from app.services.unit_of_work import UnitOfWork
from app.services.uploads.pushed_objects import PUSHED

# Marks of a draft's file: it is in the store already; its bytes were staged by a push, before anything was announced.
KEPT, STAGED = "kept", "staged"
# Of a patch's last open drafts, how many are looked through.
LOOK_BACK = 20


def is_kept(tools: Tools, file: dict[str, Any]) -> bool:
    """Whether a file of a draft was verified and its bytes are there; what was purged meanwhile is not."""
    return bool(file.get(KEPT)) and tools.blobs.size(file["sha256"]) == file["size"]


def is_hashed(file: dict[str, Any]) -> bool:
    """Returns whether a file was hashed while a push staged it, under a name that no other request can write to."""
    return bool(file.get(KEPT) and file.get(STAGED))


def place(version: PatchVersion, index: int) -> tuple[str, str]:
    """Upload and name under which a file of a draft is staged."""
    pushed = version.files[index].get(STAGED)
    return (pushed, PUSHED) if pushed else (version.id, str(index))


def arrived_here(tools: Tools, version: PatchVersion, index: int) -> int:
    """How many bytes of a draft's file are there; of one that is sent straight to the store, none before it is whole."""
    file = version.files[index]
    return int(file["size"]) if is_kept(tools, file) else tools.blobs.received(*place(version, index))


def arrived(tools: Tools, version: PatchVersion, index: int) -> int:
    """The same, with the parts that were sent straight to the store."""
    direct, multipart = tools.blobs.direct, (version.multiparts or {}).get(version.files[index]["path"])
    here = arrived_here(tools, version, index)
    if here or not multipart or direct is None:
        return here
    return sum((direct.arrived(*place(version, index), multipart) or {}).values())


def sent_before(uow: UnitOfWork, patch_id: str) -> frozenset[str]:
    """sha256 of the files that were verified for drafts of a patch that were refused: mended, one of them is another draft."""
    recent = rows.draft_files(uow.session, patch_id, LOOK_BACK)
    return frozenset(file["sha256"] for files in recent for file in files if file.get(KEPT))


def mark(files: Iterable[dict[str, Any]], verified: Iterable[str]) -> list[dict[str, Any]]:
    """The files of a draft, those among them marked that were verified (paths)."""
    paths = frozenset(verified)
    return [{**file, KEPT: True} if file["path"] in paths else file for file in files]


def unmarked(version: PatchVersion) -> list[dict[str, Any]]:
    """The files as a published version lists them: all of them were verified."""
    return [{name: value for name, value in file.items() if name not in (KEPT, STAGED)} for file in version.files]

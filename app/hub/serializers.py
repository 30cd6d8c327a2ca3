"""JSON as clients of the Hub expect it: models, files, directories, commits, refs."""

import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from app.domain.repositories import Kind, Repository
from app.services.hubview.refs import Moment, Ref
from app.services.hubview.snapshots import Snapshot, SnapshotFile

LIBRARIES: dict[Kind, str] = {"base": "transformers", "patch": "peft", "merged": "transformers"}
RELATIONS: dict[Kind, str] = {"base": "", "patch": "adapter", "merged": "merge"}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
TASK = "text-generation"


def model(repository: Repository, family: str, created_at: dt.datetime, front: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a list says of a repository."""
    kind = repository.kind
    return {
        "_id": identifier(repository.full_name), "id": repository.full_name, "modelId": repository.full_name,
        "author": repository.owner, "private": True, "gated": False, "disabled": False, "downloads": 0, "likes": 0,
        "library_name": LIBRARIES[kind], "pipeline_tag": TASK, "tags": tags(kind, family, front or {}),
        "createdAt": moment(created_at),
    }  # fmt: skip


def model_info(repository: Repository, family: str, created_at: dt.datetime, snapshot: Snapshot, blobs: bool) -> dict[str, Any]:
    """Everything about a repository at a revision."""
    files = snapshot.files.values()
    return model(repository, family, created_at, snapshot.front) | {
        "sha": snapshot.commit, "lastModified": moment(snapshot.at), "cardData": dict(snapshot.front),
        "siblings": [_sibling(entry, blobs) for entry in files], "usedStorage": sum(entry.size for entry in files),
        "spaces": [],
    }  # fmt: skip


def tags(kind: Kind, family: str, front: Mapping[str, Any]) -> list[str]:
    """The library, the format, what it is made of, and what its card says."""
    found = [LIBRARIES[kind], "safetensors", TASK]
    if kind != "base" and family:  # a repository that is only announced has none yet
        found += ["lora", f"base_model:base/{family}", f"base_model:{RELATIONS[kind]}:base/{family}"]
    if isinstance(licence := front.get("license"), str):
        found.append(f"license:{licence}")
    said = front.get("tags")
    found += said if isinstance(said, list) else []
    return list(dict.fromkeys(found))


def file_entry(entry: SnapshotFile, last: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A file of a tree."""
    shape = {"type": "file", "path": entry.path, "size": entry.size, "oid": _oid(entry)}
    if entry.sha256:
        shape["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": len(_pointer(entry))}
    return shape | ({"lastCommit": last} if last else {})


def directory_entry(path: str, below: Iterable[SnapshotFile], last: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A directory of a tree."""
    content = "\n".join(f"{entry.path} {entry.etag}" for entry in below)
    return {"type": "directory", "path": path, "size": 0, "oid": identifier(content, 40)} | ({"lastCommit": last} if last else {})


def last_commit(snapshot: Snapshot, title: str) -> dict[str, Any]:
    return {"id": snapshot.commit, "title": title, "date": moment(snapshot.at)}


def commit(name: str, found: Moment, owner: str) -> dict[str, Any]:
    """One line of a history."""
    return {
        "id": name, "title": found.title, "message": "", "date": moment(found.at), "authors": [{"user": owner, "avatar": None}],
    }  # fmt: skip


def reference(found: Ref, name: str) -> dict[str, Any]:
    """A branch or a tag."""
    where = "heads" if found.moves else "tags"
    return {"name": found.name, "ref": f"refs/{where}/{found.name}", "targetCommit": name}


def moment(at: dt.datetime) -> str:
    """A time as the Hub writes it."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03}Z"


def identifier(text: str, digits: int = 24) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def _sibling(entry: SnapshotFile, blobs: bool) -> dict[str, Any]:
    shape: dict[str, Any] = {"rfilename": entry.path}
    if blobs:
        shape |= {"size": entry.size, "blobId": _oid(entry)}
        if entry.sha256:
            shape["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": len(_pointer(entry))}
    return shape


def _pointer(entry: SnapshotFile) -> bytes:
    """What git would keep in place of the file; every file counts as LFS, so that clients verify it by its sha256."""
    return POINTER.format(sha256=entry.sha256, size=entry.size).encode()


def _oid(entry: SnapshotFile) -> str:
    """git's name of the pointer; of a computed file whose digest is not known, its ETag."""
    if not entry.sha256:
        return entry.etag
    pointer = _pointer(entry)
    return hashlib.sha1(b"blob %d\0%s" % (len(pointer), pointer), usedforsecurity=False).hexdigest()

"""Snapshots: the files of a repository at a revision, and the commit id that they give it.

Snapshots are built from immutable facts and recorded once, when these are known (`hub_commits`). A later version of this code
that generates a different card therefore does not change commits that clients have pinned.
"""

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.core.adapter import CONFIG_FILE
from app.core.front_matter import FrontMatter
from app.core.patch import CARD_FILE
from app.core.recipe import etag
from app.db import commits, versions
from app.db.base import now
from app.db.commits import Commit
from app.db.patches import PatchVersion
from app.db.ports import Port
from app.db.releases import Release
from app.domain.events.ports import PortContents
from app.domain.ids import new_id
from app.services.artifacts.artifacts import digests_of
from app.services.hubview.model_cards import merged_card, patch_card
from app.services.hubview.repositories import Adapter, BaseModel, Kind, Merged, Nothing, Thing
from app.services.unit_of_work import UnitOfWork

SHA256_DIGITS = 64
SnapshotLine = tuple[str, int, str]  # path, size, ETag
NOTHING = commits.NOTHING


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A file: size in bytes; `sha256` where it is known; `text` where it was generated."""

    path: str
    size: int
    etag: str
    sha256: str | None
    text: bytes | None


@dataclass(frozen=True)
class Snapshot:
    """What a repository holds at a revision: `commit` names it, `files` are by path, `front` is the card's front matter."""

    thing: Thing
    commit: str
    files: Mapping[str, SnapshotFile]
    front: Mapping[str, Any]
    at: dt.datetime


@dataclass(frozen=True)
class Drawn:
    """A snapshot to be recorded; `version_id` is the patch version whose files it contains, if any."""

    kind: Kind
    subject: str
    root: str
    version_id: str | None
    files: Sequence[SnapshotLine]
    texts: dict[str, str]
    card: FrontMatter


def written(uow: UnitOfWork, thing: Thing) -> Snapshot | None:
    """Returns the recorded snapshot of an object; None if none is recorded yet."""
    if isinstance(thing, Nothing):
        return Snapshot(thing, NOTHING, {}, {}, thing.at)
    kind, subject = subject_of(thing)
    row = commits.of(uow.session, kind, subject)
    return _read(thing, row) if row else None


def keep_all(uow: UnitOfWork, drawn: Sequence[Drawn]) -> None:
    """Records snapshots, except those of purged versions and those that are already recorded."""
    idents = {one.version_id for one in drawn if one.version_id is not None}
    kept = versions.kept_among(uow.session, sorted(idents))  # locked: a later purge finds these rows
    known = {
        (kind, subject) for kind in {one.kind for one in drawn}
        for subject in commits.names(uow.session, kind, [one.subject for one in drawn if one.kind == kind])
    }  # fmt: skip
    for one in drawn:
        if (one.kind, one.subject) in known or (one.version_id is not None and one.version_id not in kept):
            continue
        add(uow, one)
    uow.session.flush()


def add(uow: UnitOfWork, one: Drawn) -> None:
    """Records a snapshot. The caller ensures that no purge of its version can begin before this transaction ends."""
    name, files = commits.name_of([(path, tag) for path, _, tag in one.files]), [list(line) for line in one.files]
    uow.session.add(
        Commit(
            id=new_id("cmt"), created_at=now(), name=name, kind=one.kind, subject=one.subject, root=one.root, files=files,
            texts=one.texts, card=dict(one.card),
        )
    )  # fmt: skip


def subject_of(thing: BaseModel | Adapter | Merged) -> tuple[Kind, str]:
    """What the commit of a thing is a commit of."""
    if isinstance(thing, BaseModel):
        return "base", thing.release.id
    if isinstance(thing, Merged):
        return "merged", thing.port.id
    return ("adapter", thing.port.id) if thing.port else ("patch", thing.version.id)


def moment_of(thing: Thing) -> dt.datetime:
    """Since when a thing is as it is."""
    if isinstance(thing, Nothing):
        return thing.at
    if isinstance(thing, BaseModel):
        return thing.release.ready_at or thing.release.created_at
    port = thing.port
    if port is not None:
        return port.ready_at or port.created_at
    assert isinstance(thing, Adapter)  # noqa: S101  all others have a port
    return thing.version.published_at or thing.version.created_at


def _read(thing: BaseModel | Adapter | Merged, row: Commit) -> Snapshot:
    digests = (thing.port.digests or {}) if isinstance(thing, Merged) else {}
    entries = {}
    for path, size, tag in row.files:
        text = row.texts.get(path)
        sha256 = tag if len(tag) == SHA256_DIGITS else digests.get(path)
        entries[path] = SnapshotFile(path, size, tag, sha256, None if text is None else text.encode())
    return Snapshot(thing, row.name, entries, row.card, moment_of(thing))


def of_release(release: Release, files: Sequence[SnapshotLine], front: FrontMatter) -> Drawn:
    """Draws the snapshot of a release: its files, and the front matter of its README.md."""
    return Drawn("base", release.id, release.family_id, None, sorted(files), {}, front)


def of_version(version: PatchVersion, front: FrontMatter) -> Drawn:
    """Draws the snapshot of a version as it was published, with a card if it has none."""
    return _of_adapter(version, None, {}, front)


def of_port(
    port: Port, contents: PortContents, base: Sequence[SnapshotLine], base_front: FrontMatter, patch_front: FrontMatter
) -> list[Drawn]:
    """Builds the snapshots of a ready port: the adapter, rewritten for the release, and the merged model.

    Args:
        port: with the canonical recipe.
        contents: see there.
        base, base_front: files of the release, and the front matter of its README.md.
        patch_front: the front matter of the version's.
    """
    # As if the patch had been trained on this release, because engines load the base that the configuration names.
    own = {"base_model_name_or_path": f"base/{port.release.family.name}", "revision": port.release.name}
    texts = {CONFIG_FILE: json.dumps({**contents.config, **own}, indent=2, ensure_ascii=False) + "\n"}
    return [_of_adapter(port.version, port, texts, patch_front), _of_merged(port, contents, base, base_front, patch_front)]


def _of_adapter(version: PatchVersion, port: Port | None, texts: dict[str, str], front: FrontMatter) -> Drawn:
    if CARD_FILE not in digests_of(version):
        card = patch_card(version, port.release.name if port else None)
        texts, front = {**texts, CARD_FILE: card.text}, card.front
    files = [(file["path"], file["size"], file["sha256"]) for file in version.files]
    kind: Kind = "adapter" if port else "patch"
    return Drawn(kind, port.id if port else version.id, version.patch_id, version.id, _over(files, texts), texts, front)


def _of_merged(
    port: Port, contents: PortContents, base: Sequence[SnapshotLine], base_front: FrontMatter, patch_front: FrontMatter
) -> Drawn:
    files = [(path, size, etag(port.fingerprint, path) if path in contents.computed else digest) for path, size, digest in base]
    card = merged_card(port, base_front, patch_front, any(path == CARD_FILE for path, _, _ in base))
    texts = {CARD_FILE: card.text}
    return Drawn("merged", port.id, port.version.patch_id, port.version_id, _over(files, texts), texts, card.front)


def _over(files: Sequence[SnapshotLine], texts: Mapping[str, str]) -> list[SnapshotLine]:
    """Returns files by path, with generated ones in place of those of the same name."""
    generated = [(path, len(content := text.encode()), hashlib.sha256(content).hexdigest()) for path, text in texts.items()]
    return sorted([file for file in files if file[0] not in texts] + generated)

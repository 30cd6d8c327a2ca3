"""Snapshots: the files of a repository at a revision, and the commit id that they give it.

Made the first time that somebody asks, of facts that do not change any more, and then written down: a later version of this
code that would write another card leaves the commits alone that clients have pinned.
"""

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.core.adapter import CONFIG_FILE, MAX_CONFIG_BYTES, load_config
from app.core.patch import CARD_FILE
from app.core.source import read_range
from app.db import commits, versions
from app.db.base import now
from app.db.commits import Commit
from app.db.patches import PatchVersion
from app.db.ports import Port
from app.db.releases import Release
from app.domain.ids import new_id
from app.services.artifacts.artifacts import digests_of
from app.services.hubview.front_matter import MAX_BYTES, read_front_matter
from app.services.hubview.model_cards import merged_card, patch_card
from app.services.hubview.repositories import Adapter, BaseModel, Kind, Merged, Nothing, Thing
from app.services.patches import patches
from app.services.ports.merged_files import MergedModel
from app.services.tools import OpenArtifacts
from app.services.unit_of_work import UnitOfWork

SHA256_DIGITS = 64
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
    """A snapshot that is to be written down."""

    kind: Kind
    subject: str
    root: str
    version: PatchVersion | None
    files: list[list[Any]]
    texts: dict[str, str]
    card: dict[str, Any]


def written(uow: UnitOfWork, thing: Thing) -> Snapshot | None:
    """The snapshot of a thing; None where none was written down yet."""
    if isinstance(thing, Nothing):
        return Snapshot(thing, NOTHING, {}, {}, thing.at)
    kind, subject = subject_of(thing)
    row = commits.of(uow.session, kind, subject)
    return _read(thing, row) if row else None


def draw(artifacts: OpenArtifacts, thing: Thing) -> Drawn:
    """Computes a snapshot to be recorded; reads a few small files, so no transaction should be open.

    Raises:
        DomainError, CoreError: storage does not answer, or its bytes differ from those that were published.
    """
    if isinstance(thing, BaseModel):
        return _of_base(artifacts, thing.release)
    if isinstance(thing, Adapter):
        return _of_adapter(artifacts, thing.version, thing.port)
    assert isinstance(thing, Merged)  # noqa: S101  a repository with nothing in it needs nothing written down
    return _of_merged(artifacts, thing.port)


def keep(uow: UnitOfWork, drawn: Drawn) -> None:
    """Writes a snapshot down; where there is one, that stays.

    Raises:
        DomainError: version.purged.
    """
    keep_all(uow, [drawn])
    if drawn.version is not None:
        patches.require_kept(patches.find_version(uow, drawn.version.patch, str(drawn.version.number)))


def keep_all(uow: UnitOfWork, drawn: Sequence[Drawn]) -> None:
    """Records snapshots, except those of purged versions and those that are already recorded."""
    idents = {one.version.id for one in drawn if one.version is not None}
    kept = versions.kept_among(uow.session, sorted(idents))  # locked: a later purge finds these rows
    known = {
        (kind, subject) for kind in {one.kind for one in drawn}
        for subject in commits.names(uow.session, kind, [one.subject for one in drawn if one.kind == kind])
    }  # fmt: skip
    for one in drawn:
        if (one.kind, one.subject) in known or (one.version is not None and one.version.id not in kept):
            continue
        name = commits.name_of([(path, etag) for path, _, etag in one.files])
        uow.session.add(
            Commit(
                id=new_id("cmt"), created_at=now(), name=name, kind=one.kind, subject=one.subject, root=one.root,
                files=one.files, texts=one.texts, card=one.card,
            )
        )  # fmt: skip
    uow.session.flush()


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
    for path, size, etag in row.files:
        text = row.texts.get(path)
        sha256 = etag if len(etag) == SHA256_DIGITS else digests.get(path)
        entries[path] = SnapshotFile(path, size, etag, sha256, None if text is None else text.encode())
    return Snapshot(thing, row.name, entries, row.card, moment_of(thing))


def _of_base(artifacts: OpenArtifacts, release: Release) -> Drawn:
    manifest = artifacts.manifest(release)
    files = [[path, size, manifest.file_digests[path]] for path, size in manifest.checkpoint.files.items()]
    return Drawn("base", release.id, release.family_id, None, sorted(files), {}, dict(_base_front(artifacts, release)))


def _of_adapter(artifacts: OpenArtifacts, version: PatchVersion, port: Port | None) -> Drawn:
    texts, front = dict[str, str](), _patch_front(artifacts, version)
    if port is not None:
        texts[CONFIG_FILE] = _rewritten(artifacts, version, port.release)
    if CARD_FILE not in digests_of(version):
        card = patch_card(version, port.release.name if port else None)
        texts[CARD_FILE], front = card.text, card.front
    files = [[file["path"], file["size"], file["sha256"]] for file in version.files]
    kind: Kind = "adapter" if port else "patch"
    return Drawn(kind, port.id if port else version.id, version.patch_id, version, _over(files, texts), texts, dict(front))


def _of_merged(artifacts: OpenArtifacts, port: Port) -> Drawn:
    files = [[file.path, file.size, file.etag] for file in MergedModel(artifacts, port).files()]
    has_readme = any(path == CARD_FILE for path, _, _ in files)
    card = merged_card(port, _base_front(artifacts, port.release), _patch_front(artifacts, port.version), has_readme)
    texts = {CARD_FILE: card.text}
    return Drawn("merged", port.id, port.version.patch_id, port.version, _over(files, texts), texts, dict(card.front))


def _over(files: list[list[Any]], texts: Mapping[str, str]) -> list[list[Any]]:
    """Files by path, with what was generated in place of what has its name."""
    generated = [[path, len(content := text.encode()), hashlib.sha256(content).hexdigest()] for path, text in texts.items()]
    return sorted([file for file in files if file[0] not in texts] + generated)


def _rewritten(artifacts: OpenArtifacts, version: PatchVersion, release: Release) -> str:
    """adapter_config.json as it would be, had the patch been trained on this release: engines load the base that it names."""
    digest = digests_of(version)[CONFIG_FILE]
    with artifacts.open_file(version, CONFIG_FILE, digest) as source:
        config = load_config(bytes(read_range(source, CONFIG_FILE, 0, min(source.size(CONFIG_FILE), MAX_CONFIG_BYTES))))
    config |= {"base_model_name_or_path": f"base/{release.family.name}", "revision": release.name}
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"


def _base_front(artifacts: OpenArtifacts, release: Release) -> Mapping[str, str | list[str]]:
    if CARD_FILE not in artifacts.manifest(release).file_digests:
        return {}
    with artifacts.open_release(release) as source:
        return read_front_matter(bytes(read_range(source, CARD_FILE, 0, min(source.size(CARD_FILE), MAX_BYTES))))


def _patch_front(artifacts: OpenArtifacts, version: PatchVersion) -> Mapping[str, str | list[str]]:
    digest = digests_of(version).get(CARD_FILE)
    if digest is None:
        return {}
    with artifacts.open_file(version, CARD_FILE, digest) as source:
        return read_front_matter(bytes(read_range(source, CARD_FILE, 0, min(source.size(CARD_FILE), MAX_BYTES))))

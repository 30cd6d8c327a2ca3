"""Checks of rows that constraints cannot express: against other rows, and against digests computed from JSON columns.

Conditions on single rows and references between rows are enforced by CHECK constraints and foreign keys (`app.db`).
"""

import datetime as dt
import hashlib
from collections.abc import Iterator

from app.core.errors import CoreError
from app.core.recipe import Recipe, digest_of, fingerprint
from app.db.aliases import Alias
from app.db.base import now
from app.db.commits import Commit, name_of
from app.db.patches import PUBLISHED, PURGED, PatchVersion
from app.db.ports import Port
from app.services.operations.abandoned_uploads import DRAFT_AGE
from app.services.operations.fsck.troubles import Trouble
from app.services.ports import ports
from app.services.tools import Tools

# An erasure takes moments, where the stores answer.
ERASURE_AGE = dt.timedelta(days=1)
READ_STATES = ("ready", "yanked")
# The sweep comes every hour; a draft that is still there much later was not swept.
SWEEPS_MISSED = 2 * DRAFT_AGE


def version(tools: Tools, row: PatchVersion) -> Iterator[Trouble]:
    """Checks a version's digest and size against its list of files, and finds drafts and purges that were never completed."""
    name = version_name(row)
    if row.digest != digest_of([[file["path"], file["sha256"]] for file in row.files]):
        yield Trouble("version.files", name, f"Its digest {row.digest} is not that of its list of files.")
    elif row.total_bytes != sum(file["size"] for file in row.files):
        yield Trouble("version.files", name, f"Its files are {sum(f['size'] for f in row.files)} bytes, not {row.total_bytes}.")
    if row.state == "draft":
        yield from _draft(tools, row, name)
    elif row.state == PURGED and row.erased_at is None and row.purged_at and now() - row.purged_at > ERASURE_AGE:
        yield Trouble("purge.pending", name, f"It was purged {row.purged_at:%Y-%m-%d}, and something of it may still be there.")


def alias(_: Tools, row: Alias) -> Iterator[Trouble]:
    """Checks that an alias selects a published version."""
    state = row.version.state
    if state != "published":
        code = f"alias.{state}" if state in ("yanked", PURGED) else "alias.unpublished"
        name = f"{row.version.patch.full_name}@{row.name}"
        yield Trouble(code, name, f"It points at {version_name(row.version)}, which is {state}: nothing can select it.")


def port(_: Tools, row: Port) -> Iterator[Trouble]:
    """Checks that the version and the release of a port can be read, that its state matches its findings, and its fingerprint."""
    subject = f"{row.id} ({version_name(row.version)} on {row.release.name})"
    if PURGED in (row.state, row.version.state):
        if row.state != row.version.state:
            yield Trouble("port.version", subject, f"It is {row.state}, and its version is {row.version.state}.")
        return
    if row.version.state not in PUBLISHED:
        yield Trouble("port.version", subject, f"Its version is {row.version.state}.")
    if row.release.state not in READ_STATES:
        yield Trouble("port.release", subject, f"Its release is {row.release.state}.")
    elif row.release.family_id != row.version.patch.family_id:
        yield Trouble("port.release", subject, f"Its release is of family {row.release.family.name}, its patch of another.")
    else:
        yield from _recipe(row, subject)
    yield from _findings(row, subject)


def commit(row: Commit) -> Iterator[Trouble]:
    """A commit is named after its files, and what was generated is what it lists."""
    subject, listed = f"{row.name} ({row.kind} {row.subject})", {path: (size, etag) for path, size, etag in row.files}
    if row.name != name_of([(path, etag) for path, (_, etag) in listed.items()]):
        yield Trouble("commit.files", subject, "Its name is not that of its files.")
    for path, text in row.texts.items():
        content = text.encode()
        if listed.get(path) != (len(content), hashlib.sha256(content).hexdigest()):
            yield Trouble("commit.files", subject, f"The text of {path} is not the one that it lists.")


def version_name(row: PatchVersion) -> str:
    """owner/name@number, or the id of what has no number."""
    return f"{row.patch.full_name}@{row.number}" if row.number is not None else f"{row.patch.full_name} {row.id}"


def _draft(tools: Tools, row: PatchVersion, name: str) -> Iterator[Trouble]:
    if now() - row.created_at > SWEEPS_MISSED:
        yield Trouble("draft.abandoned", name, f"It was begun {row.created_at:%Y-%m-%d} and never swept.")
    direct, begun = tools.blobs.direct, row.multiparts or {}
    if direct is None:
        return
    for index, file in enumerate(row.files):
        multipart, staged = begun.get(file["path"]), str(index)
        # What arrived whole was completed, and what was verified is under its digest: neither is in parts any more.
        if not multipart or tools.blobs.received(row.id, staged) or tools.blobs.size(file["sha256"]) is not None:
            continue
        if direct.arrived(row.id, staged, multipart) is None:
            yield Trouble("draft.gone", name, f"The parts of {file['path']} that a client sent are not in the store any more.")


def _recipe(row: Port, subject: str) -> Iterator[Trouble]:
    try:
        recipe = Recipe.from_dict(row.recipe)
    except (CoreError, TypeError) as error:
        yield Trouble("port.recipe", subject, f"Its recipe cannot be read: {error}")
        return
    expected = fingerprint(recipe, str(row.release.manifest), row.version.digest)
    if row.fingerprint != expected:
        yield Trouble("port.fingerprint", subject, f"Its fingerprint is {row.fingerprint}; its recipe gives {expected}.")


def _findings(row: Port, subject: str) -> Iterator[Trouble]:
    refusals = {f["code"] for f in row.findings if f["severity"] == "refuse"}
    standing = refusals - (ports.ARGUABLE if row.forced else frozenset())
    if row.state in ("ready", "held") and standing:
        yield Trouble("port.findings", subject, f"It is {row.state}, and its findings refuse it: {', '.join(sorted(standing))}.")
    elif row.state == "refused" and not refusals:
        yield Trouble("port.findings", subject, "It is refused, and no finding says why.")

"""What rows say of themselves and of each other, judged one by one; each function yields what is wrong with a row."""

import datetime as dt
import hashlib
from collections.abc import Callable, Iterator

from app.core.errors import CoreError
from app.core.recipe import Recipe, digest_of, fingerprint
from app.db.base import now
from app.db.commits import Commit, name_of
from app.db.imports import Import
from app.db.materialisations import Materialisation
from app.db.patches import PUBLISHED, PURGED, Alias, PatchVersion
from app.db.ports import Port
from app.db.releases import Release
from app.domain.states import MOVES
from app.services.catalog import releases
from app.services.operations.abandoned_uploads import DRAFT_AGE
from app.services.operations.fsck.troubles import Trouble
from app.services.patches import imports
from app.services.ports import materialisations, ports
from app.services.tools import Tools

# An erasure takes moments, where the stores answer.
ERASURE_AGE = dt.timedelta(days=1)
LIVE_JOBS = ("queued", "running")
READ_STATES = ("ready", "yanked")
# The sweep comes every hour; a draft that is still there much later was not swept.
SWEEPS_MISSED = 2 * DRAFT_AGE


def release(tools: Tools, row: Release) -> Iterator[Trouble]:
    """A release that was read has a manifest; one that is read has a job that lives."""
    name = f"{row.family.name}/{row.name}"
    if row.state in READ_STATES and row.manifest is None:
        yield Trouble("release.manifest", name, f"It is {row.state} and has no manifest.")
    if row.state == "ingesting":
        yield from _stuck(tools, "release.stuck", name, row.state, releases.job_of(row))


def version(tools: Tools, row: PatchVersion) -> Iterator[Trouble]:
    """The state of a version fits what else it says; its digest is that of its files."""
    name = version_name(row)
    published = (row.number, row.published_digest, row.published_at)
    if row.state not in MOVES["version"]:
        yield Trouble("version.state", name, f"There is no state {row.state!r}.")
    elif row.state in PUBLISHED and (None in (*published, row.facts) or row.published_digest != row.digest):
        yield Trouble("version.state", name, f"It is {row.state} without number, digest, facts or moment of publication.")
    elif row.state == PURGED:
        yield from _tombstone(row, name)
    elif row.state not in PUBLISHED and published != (None, None, None):
        yield Trouble("version.state", name, f"It is {row.state} with the number, digest or moment of a publication.")
    if row.digest != digest_of([[file["path"], file["sha256"]] for file in row.files]):
        yield Trouble("version.files", name, f"Its digest {row.digest} is not that of its list of files.")
    elif row.total_bytes != sum(file["size"] for file in row.files):
        yield Trouble("version.files", name, f"Its files are {sum(f['size'] for f in row.files)} bytes, not {row.total_bytes}.")
    if row.state == "draft":
        yield from _draft(tools, row, name)


def alias(_: Tools, row: Alias) -> Iterator[Trouble]:
    """An alias selects a published version of its own patch."""
    name, target = f"{row.version.patch.full_name}@{row.name}", row.version
    if row.patch_id != target.patch_id:
        yield Trouble("alias.elsewhere", f"{row.id} ({row.name})", f"It points at {version_name(target)}, of another patch.")
    elif target.state == "yanked":
        yield Trouble("alias.yanked", name, f"It points at version {target.number}, which was yanked: nothing can select it.")
    elif target.state == PURGED:
        yield Trouble("alias.purged", name, f"It points at version {target.number}, which was purged: nothing can select it.")
    elif target.state != "published":
        yield Trouble("alias.unpublished", name, f"It points at {target.id}, which is {target.state}.")


def port(_: Tools, row: Port) -> Iterator[Trouble]:
    """Version and release of a port can be read, its findings allow its state, its fingerprint is that of its recipe."""
    subject = f"{row.id} ({version_name(row.version)} on {row.release.name})"
    if PURGED in (row.state, row.version.state):
        if row.state != row.version.state:
            yield Trouble("port.version", subject, f"It is {row.state}, and its version is {row.version.state}.")
        return
    if row.version.state not in PUBLISHED or row.owner != row.version.owner:
        yield Trouble("port.version", subject, f"Its version is {row.version.state}, of {row.version.owner}.")
    if row.release.state not in READ_STATES or row.release.manifest is None:
        yield Trouble("port.release", subject, f"Its release is {row.release.state}, and its manifest {row.release.manifest}.")
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


def materialisation(tools: Tools, row: Materialisation) -> Iterator[Trouble]:
    """One that waits or runs has a job that lives."""
    if row.state in LIVE_JOBS:
        subject = f"{row.id} ({row.target})"
        yield from _stuck(tools, "materialisation.stuck", subject, row.state, materialisations.job_of(row))


def import_(tools: Tools, row: Import) -> Iterator[Trouble]:
    """One that waits or runs has a job that lives."""
    if row.state in LIVE_JOBS:
        yield from _stuck(tools, "import.stuck", f"{row.id} ({row.patch})", row.state, imports.job_of(row))


def version_name(row: PatchVersion) -> str:
    """owner/name@number, or the id of what has no number."""
    return f"{row.patch.full_name}@{row.number}" if row.number is not None else f"{row.patch.full_name} {row.id}"


def _stuck(tools: Tools, code: str, subject: str, state: str, job: str) -> Iterator[Trouble]:
    status = tools.jobs.status(job)
    if status is None or status.state not in LIVE_JOBS:
        yield Trouble(code, subject, f"It is {state}, and its job {job} is {status.state if status else 'not there'}.")


def _tombstone(row: PatchVersion, name: str) -> Iterator[Trouble]:
    if row.purged_at is None or (row.number is not None and (row.erasure is None or row.published_digest != row.digest)):
        yield Trouble("version.state", name, "It is purged without the moment, what became of its bytes, or its digest.")
    elif row.erased_at is None and now() - row.purged_at > ERASURE_AGE:
        yield Trouble("purge.pending", name, f"It was purged {row.purged_at:%Y-%m-%d}, and something of it may still be there.")


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
    elif row.state == "ready" and row.ready_at is None:
        yield Trouble("port.findings", subject, "It is ready, and was never made so.")
    elif row.state in ("ready", "held") and row.forced and not row.reason:
        yield Trouble("port.findings", subject, "It was forced without a reason.")


Judge = Callable[..., Iterator[Trouble]]

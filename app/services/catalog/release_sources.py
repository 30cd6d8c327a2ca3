"""Where releases come from: directories and places in S3 that were allowed, and other hubs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.blobs.locations import S3Prefix
from app.db import release_downloads
from app.db.pushes import Push
from app.db.releases import Release
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.domain.s3_uri import S3, S3Uri
from app.domain.upstreams import HubFile, Reference, is_reference
from app.services.catalog import upstreams
from app.services.catalog.orders import RegisteredDirectory, ReleaseLocation, StoredFiles, UpstreamCommit
from app.services.tools import Tools
from app.services.unit_of_work import Begin, UnitOfWork

PUSHED = "push:"  # what the source of a release begins with whose files were pushed, before the push's id


@dataclass(frozen=True)
class UpstreamListing:
    """A repository of an upstream as it was listed at one commit."""

    reference: Reference
    endpoint: str
    commit: str
    files: tuple[HubFile, ...]

    @property
    def address(self) -> str:
        """How a release names it as its source: by commit, which never changes."""
        return str(Reference(self.reference.upstream, self.reference.repository, self.commit))

    @property
    def origin(self) -> dict[str, str]:
        return {
            "upstream": self.reference.upstream, "endpoint": self.endpoint, "repository": self.reference.repository,
            "revision": self.reference.revision, "commit": self.commit,
        }  # fmt: skip


def look_up(read: Begin, principal: Principal, source: str) -> UpstreamListing | None:
    """Asks an upstream what a reference means now; None for what names no upstream. Takes as long as the upstream does.

    Args:
        read: opens a unit of work that reads; none is open while the upstream is waited for.

    Raises:
        DomainError: token.scope, upstream.*, secret.*, outgoing.*.
    """
    if not is_reference(source):
        return None
    from app.clients.hub import HubClient  # noqa: PLC0415  httpx, which a registry without upstreams never needs

    principal.require_admin()
    reference = Reference.parse(source)
    reference.require_repository()
    with read() as uow:
        client = HubClient(upstreams.hub(uow, reference.upstream))
    commit = client.commit(reference.repository, reference.revision)
    return UpstreamListing(reference, client.hub.endpoint, commit, tuple(client.files(reference.repository, commit)))


def keep_listing(uow: UnitOfWork, release: Release, listed: UpstreamListing) -> None:
    """Writes down what is to be pulled for a release, until it is ready."""
    row = release_downloads.of_release(uow.session, release.id)
    if row is None:
        uow.add(release_downloads.Pull(release_id=release.id, files=[file.to_list() for file in listed.files]))
    else:
        row.files = [file.to_list() for file in listed.files]


def order_of(uow: UnitOfWork, release: Release) -> ReleaseLocation:
    """Where a release is read, as the order of its job names it: asked again at the time of reading.

    A link may have been moved since the release was registered, an upstream may be reached by another token. The order for an
    upstream holds its token: it goes to the job's process, and is kept nowhere.

    Raises:
        DomainError: release.root, release.directory, place.not_allowed; upstream.unknown, secret.*; push.lost, blob.missing.
    """
    if release.source.startswith(PUSHED):
        return _pushed(uow, release)
    if release.origin is None:
        return allowed_source(release.source, uow.tools)
    reference, row = Reference.parse(release.source), release_downloads.of_release(uow.session, release.id)
    hub = upstreams.hub(uow, reference.upstream)
    files = tuple(HubFile(*line) for line in row.files) if row else ()
    return UpstreamCommit(hub, reference.repository, reference.revision, files, uow.tools.blobs.where(), staging_of(release))


def lies_here(release: Release) -> bool:
    """Whether its files come into the store before they are read as a release: they were pushed, or are pulled."""
    return release.origin is not None or release.source.startswith(PUSHED)


def _pushed(uow: UnitOfWork, release: Release) -> StoredFiles:
    push = uow.session.get(Push, release.source.removeprefix(PUSHED))
    if push is None:
        raise DomainError("push.lost", path=release.name)
    location = uow.tools.blobs.location({file["path"]: file["sha256"] for file in push.files})
    return StoredFiles(location, {file["path"]: file["size"] for file in push.files})


def staging_of(release: Release) -> str:
    """Where in the store what is pulled for a release is staged: the same for every attempt, which goes on with it."""
    return f"pull-{release.id}"


def allowed_source(source: str, tools: Tools) -> RegisteredDirectory | S3Prefix:
    """A directory or a place in S3 that a release may be read from, as the order of its job names it.

    Raises:
        DomainError: release.root, release.directory, place.invalid, place.not_allowed.
    """
    if not source.startswith(S3):
        roots = tuple(str(root) for root in tools.allowed_roots)
        return RegisteredDirectory(str(allowed_directory(source, tools.allowed_roots)), roots)
    place = S3Uri.parse(source)
    place.require_below(tools.allowed_s3)
    return S3Prefix(place.bucket, place.prefix)


def address_of(source: RegisteredDirectory | S3Prefix) -> str:
    """The address of a source, always written the same way."""
    return source.directory if isinstance(source, RegisteredDirectory) else str(S3Uri(source.bucket, source.prefix))


def allowed_directory(directory: str, roots: Sequence[Path]) -> Path:
    """The real place of a directory, if it may be read.

    Links are resolved before the allow-list is checked. Outside the roots, forbidden and missing directories get the same answer,
    so that callers learn nothing about the rest of the disk. A link may be swapped after this returns; each file is therefore
    checked again when it is opened (`app.core.confined`).

    Raises:
        DomainError: release.root, release.directory.
    """
    try:
        real = Path(directory).resolve(strict=False)
    except (OSError, ValueError, RuntimeError):
        raise DomainError("release.root", path=directory[:200]) from None
    if not any(real.is_relative_to(root.resolve()) for root in roots):
        raise DomainError("release.root", path=directory[:200])
    try:
        there = real.is_dir()
    except OSError:  # a name longer than any can be
        there = False
    if not there:
        raise DomainError("release.directory", path=directory[:200])
    return real

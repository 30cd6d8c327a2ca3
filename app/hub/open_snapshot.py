"""Opens a repository at a revision for one request."""

from dataclasses import dataclass

from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.domain.repositories import Repository, parse_repository
from app.http.access import Access
from app.services.hubview import hub_commits, repositories, snapshots
from app.services.hubview.snapshots import Snapshot, SnapshotFile

COMMIT = "X-Repo-Commit"


@dataclass(frozen=True)
class OpenSnapshot:
    """A snapshot of a repository at a revision, read in a transaction that has ended."""

    principal: Principal
    repository: Repository
    revision: str
    snapshot: Snapshot

    def entry(self, path: str) -> SnapshotFile:
        """Raises `DomainError` (hub.entry) for a path that is no file."""
        found = self.snapshot.files.get(path)
        if found is None:
            raise self.no_entry(path)
        return found

    def no_entry(self, path: str) -> DomainError:
        return DomainError("hub.entry", repository=self.repository.full_name, path=path[:200], revision=self.revision[:100])


def open_repository(access: Access, owner: str, name: str, revision: str) -> OpenSnapshot:
    """Opens a repository at a revision for the caller.

    From then on, error responses contain the commit (X-Repo-Commit): clients cache that it does not have a file.

    Raises:
        DomainError: the errors of `repositories.find`; hub.repository.
    """
    with access.read() as (uow, principal):
        repository = parse_repository(owner, name)
        thing = repositories.find(uow, principal, repository, revision)
        snapshot = snapshots.written(uow, thing)
    if snapshot is None:
        snapshot = hub_commits.write_missing(access.registry, thing)
    access.say(**{COMMIT: snapshot.commit})
    return OpenSnapshot(principal, repository, revision, snapshot)

"""The task of an import: downloads a patch from an upstream, checks all its values, and returns the name of its base."""

from contextlib import closing

from app.blobs.locations import open_location
from app.blobs.opening import open_store
from app.clients.hub import HubClient
from app.core import arithmetic
from app.core.patch import check_finite, choose_files, read_patch
from app.domain.errors import DomainError
from app.domain.quotas import KINDS
from app.jobs.tasks.context import TaskContext
from app.jobs.tasks.download import Puller, retry_while_unavailable, visible
from app.services.patches.orders import ImportedFile, ImportOrder, ImportResult


def run(order: ImportOrder, context: TaskContext) -> ImportResult:
    """Brings the files of a patch into the store.

    Raises:
        CoreError: it is not a patch that can be added exactly.
        DomainError: upstream.*, outgoing.*, storage.*, request.too_large, quota.exceeded.
    """
    hub, repository, store = HubClient(order.hub), order.repository, open_store(order.store)
    commit = retry_while_unavailable(lambda: hub.commit(repository, order.revision))
    if commit in order.known:
        return ImportResult(commit)
    listed = visible(retry_while_unavailable(lambda: hub.files(repository, commit)))
    kept, dropped = choose_files({path: file.size for path, file in listed.items()})
    total = sum(kept.values())
    if total > order.max_bytes:
        raise DomainError("request.too_large", what="the patch", size=total, limit=order.max_bytes)
    if (quota := order.quota) and quota.used + total > quota.limit:  # before anything large is downloaded
        raise DomainError("quota.exceeded", kind="bytes", what=KINDS["bytes"], asked=total, **vars(quota))
    puller = Puller(hub, repository, commit, store, order.upload, context.start_report(total, "Downloading"))
    digests = puller.keep_all(listed[path] for path in kept)
    with closing(open_location(store.location(digests))) as source:
        patch = read_patch(source, kept)
        check_finite(patch, source, arithmetic.load())
    files = tuple(ImportedFile(path, kept[path], digests[path]) for path in sorted(kept))
    config = patch.config
    return ImportResult(commit, files, tuple(dropped[: order.max_files]), config.base_model, config.revision)

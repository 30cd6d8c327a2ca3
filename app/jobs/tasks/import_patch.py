"""What the job of an import does: fetches a patch from another hub, looks at every value, and says what its base is called."""

from contextlib import closing
from typing import Any

from app.blobs.locations import open_location
from app.blobs.opening import open_store
from app.clients.hub import HubClient
from app.core import arithmetic
from app.core.patch import check_finite, choose_files, read_patch
from app.domain.errors import DomainError
from app.domain.quotas import KINDS
from app.domain.upstreams import Hub
from app.jobs.tasks.download import Puller, Reporter, patiently, visible


def bring(order: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Brings the files of a patch into the store.

    Args:
        order: "hub", "repository", "revision"; "known", commits that are here already; "store", "upload", where what arrives is
            staged; "max_bytes", "max_files" of a patch; "quota", {owner, used, limit} in bytes, or None.
        reporter: makes the report of progress, in bytes.

    Returns:
        {"commit", "files": [{path, size, sha256}] or None where the commit is known, "dropped", "base_model", "base_revision"}.

    Raises:
        CoreError: it is not a patch that can be added exactly.
        DomainError: upstream.*, outgoing.*, storage.*, request.too_large, quota.exceeded.
    """
    hub, repository, store = HubClient(Hub.from_dict(order["hub"])), order["repository"], open_store(order["store"])
    commit = patiently(lambda: hub.commit(repository, order["revision"]))
    if commit in order["known"]:
        return {"commit": commit, "files": None, "dropped": [], "base_model": None, "base_revision": None}
    listed = visible(patiently(lambda: hub.files(repository, commit)))
    kept, dropped = choose_files({path: file.size for path, file in listed.items()})
    total = sum(kept.values())
    if total > order["max_bytes"]:
        raise DomainError("request.too_large", what="the patch", size=total, limit=order["max_bytes"])
    if (quota := order["quota"]) and quota["used"] + total > quota["limit"]:  # before anything large is fetched in vain
        raise DomainError("quota.exceeded", kind="bytes", what=KINDS["bytes"], asked=total, **quota)
    puller = Puller(hub, repository, commit, store, order["upload"], reporter(total, "Downloading"))
    digests = puller.keep_all(listed[path] for path in kept)
    with closing(open_location(store.location(digests))) as source:
        patch = read_patch(source, kept)
        check_finite(patch, source, arithmetic.load())
    files = [{"path": path, "size": kept[path], "sha256": digests[path]} for path in sorted(kept)]
    base = {"base_model": patch.config.base_model, "base_revision": patch.config.revision}
    return {"commit": commit, "files": files, "dropped": dropped[: order["max_files"]], **base}

"""Repositories: what they are, what they can be asked for, what there is of them."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import JSONResponse

from app.domain.errors import DomainError
from app.domain.repositories import MAIN, parse_repository, unknown_repository
from app.http.access import Access, AccessDep
from app.hub import serializers
from app.hub.open_snapshot import OpenSnapshot, open_repository
from app.hub.paging import PageDep
from app.hub.routing import hub_router
from app.services.hubview import hub_commits, listing, refs, repositories, snapshots
from app.services.hubview.hub_commits import Subject
from app.services.hubview.listing import ListingFilter
from app.services.patches.tombstones import reread_if_purged

router = hub_router()

Expand = Annotated[list[str] | None, Query(max_length=40)]
Filters = Annotated[list[str] | None, Query(alias="filter", max_length=20)]
Text = Annotated[str | None, Query(max_length=200)]
# Less than the ten seconds that clients wait for an answer.
WRITE_SECONDS = 6.0
EVERY = frozenset({"base", "patch", "merged"})
# What clients may filter by that tells kinds apart.
KINDS = {
    "transformers": frozenset({"base", "merged"}), "peft": frozenset({"patch"}), "lora": frozenset({"patch", "merged"}),
    "merge": frozenset({"merged"}), "portllm": frozenset({"patch", "merged"}), "safetensors": EVERY, serializers.TASK: EVERY,
}  # fmt: skip


@router.get("/api/models")
def list_models(
    request: Request, access: AccessDep, page: PageDep, author: Text = None, search: Text = None, filters: Filters = None
) -> JSONResponse:
    """The repositories that the token may read."""
    wanted = _wanted(author, search, filters or [])
    with access.read() as (uow, principal):
        found, after = listing.list_page(uow, principal, wanted, page.after, page.limit)
    shown = [serializers.model(one.repository, one.line.family, one.line.created_at) for one in found]
    return JSONResponse(shown, headers=page.link(request, after))


@router.get("/api/models/{owner}/{name}")
def get_model(owner: str, name: str, access: AccessDep, blobs: bool = False, expand: Expand = None) -> JSONResponse:
    """A repository at `main`."""
    return _info(access, owner, name, MAIN, blobs, expand)


@router.get("/api/models/{owner}/{name}/revision/{revision}")
def get_revision(
    owner: str, name: str, revision: str, access: AccessDep, blobs: bool = False, expand: Expand = None
) -> JSONResponse:  # fmt: skip
    """A repository at a revision: what every load asks first."""
    return _info(access, owner, name, revision, blobs, expand)


@router.get("/api/models/{owner}/{name}/auth-check")
@router.get("/api/models/{owner}/{name}/auth-check/read")
def check_access(owner: str, name: str, access: AccessDep) -> JSONResponse:
    """Whether the token may read a repository."""
    with access.read() as (uow, principal):
        repositories.root_of(uow, principal, parse_repository(owner, name))
    return JSONResponse({"ok": True})


@router.get("/api/models/{owner}/{name}/refs")
def list_refs(owner: str, name: str, access: AccessDep, include_prs: bool = False) -> JSONResponse:
    """Branches move, tags do not."""
    with access.read() as (uow, principal):
        found = refs.references(uow, principal, parse_repository(owner, name))
        named = hub_commits.names(uow, subjects := [reference.subject for reference in found if reference.subject])
    named = _complete(access, subjects, named)
    shown = [(one, serializers.reference(one, commit)) for one in found if (commit := _name(named, one.subject))]
    answer: dict[str, list[Any]] = {
        "branches": [shape for one, shape in shown if one.moves], "tags": [shape for one, shape in shown if not one.moves],
        "converts": [],
    }  # fmt: skip
    return JSONResponse(answer | ({"pullRequests": []} if include_prs else {}))


@router.get("/api/models/{owner}/{name}/commits/{revision}")
def list_commits(request: Request, owner: str, name: str, revision: str, access: AccessDep, page: PageDep) -> JSONResponse:
    """A revision and what it continues, newest first."""
    found = open_repository(access, owner, name, revision)
    start = page.offset
    with access.read() as (uow, _):
        moments = refs.history(uow, found.snapshot.thing)
        chosen = moments[start : start + page.limit]
        named = hub_commits.names(uow, subjects := [one.subject for one in chosen if one.subject])
    named = _complete(access, subjects, named)
    shown = [serializers.commit(commit, one, owner) for one in chosen if (commit := _name(named, one.subject))]
    more = start + page.limit < len(moments)
    return JSONResponse(shown, headers=page.link(request, str(start + page.limit) if more else None))


@router.get("/api/models/{name}")
@router.get("/api/datasets/{rest:path}")
@router.get("/api/spaces/{rest:path}")
@router.head("/{name}/resolve/{revision}/{path:path}")
@router.get("/{name}/resolve/{revision}/{path:path}")
@router.head("/{other}/{owner}/{name}/resolve/{revision}/{path:path}")
@router.get("/{other}/{owner}/{name}/resolve/{revision}/{path:path}")
def not_here(request: Request, access: AccessDep) -> JSONResponse:
    """Names of one part, datasets and spaces: what clients ask the Hub for, and is not here."""
    access.authenticate()
    raise unknown_repository(request.url.path.strip("/").removeprefix("api/").removeprefix("models/").partition("/resolve/")[0])


def _info(access: Access, owner: str, name: str, revision: str, blobs: bool, expand: Sequence[str] | None) -> JSONResponse:
    def read() -> JSONResponse:
        return JSONResponse(_shape(open_repository(access, owner, name, revision), blobs, expand))

    return reread_if_purged(read)


def _shape(found: OpenSnapshot, blobs: bool, expand: Sequence[str] | None) -> dict[str, Any]:
    """Everything, or what is asked for."""
    family, created_at = repositories.family_and_birth(found.snapshot.thing)
    shape = serializers.model_info(found.repository, family, created_at, found.snapshot, blobs)
    if not expand:
        return shape
    kept = {"_id", "id", *expand}
    return {key: value for key, value in shape.items() if key in kept}


def _complete(access: Access, subjects: Sequence[Subject], named: dict[Subject, str]) -> dict[Subject, str]:
    """Returns the commit ids of subjects, given the recorded ones; records missing ones if their files can be read.

    Raises:
        DomainError: server.busy, if there are too many missing commits for one request; the next request continues.
    """
    missing = [subject for subject in dict.fromkeys(subjects) if subject not in named]
    if not missing:
        return named
    if left := hub_commits.write(access.registry, missing, WRITE_SECONDS):
        raise DomainError("server.busy", limit=len(subjects) - left, what="revisions that one request looks at first")
    with access.read() as (uow, _):
        return hub_commits.names(uow, subjects)


def _name(named: Mapping[Subject, str], subject: Subject | None) -> str | None:
    return named.get(subject) if subject else snapshots.NOTHING


def _wanted(author: str | None, search: str | None, filters: Sequence[str]) -> ListingFilter:
    """What a list is asked for. A filter that nothing here has leaves nothing, as on the Hub."""
    kinds, base = EVERY, None
    for text in filters:
        if text.startswith(listing.MADE_OF):
            relation, _, rest = text.removeprefix(listing.MADE_OF).rpartition(":")
            base = rest
            kinds &= {kind for kind, own in serializers.RELATIONS.items() if own and relation in ("", own)}
        else:
            kinds &= KINDS.get(text.removeprefix("library:"), frozenset())
    return ListingFilter(author, search.lower() if search else None, base, kinds)

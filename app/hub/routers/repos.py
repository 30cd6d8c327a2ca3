"""Repositories that are made, named and taken away: create, delete, tags, branches, and a look at a card."""

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from app.core.front_matter import is_readable
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.domain.repositories import MAIN, Repository, parse_repository, unknown_revision
from app.http.access import AccessDep
from app.http.body_routes import buffers_body
from app.http.problems import MEDIA_TYPE, body_of
from app.hub.errors import MESSAGE, in_a_header
from app.hub.routing import hub_router
from app.hub.schemas import CardIn, CreateIn, TagIn, address, parsed, warning
from app.services.hubview import base_pushes, pushes, repositories
from app.services.hubview.repositories import Adapter
from app.services.patches import patches
from app.services.registry import Registry
from app.services.unit_of_work import UnitOfWork, run_with_retry
from app.services.uploads.pushed_objects import require_push

router = hub_router()


@router.post("/api/repos/create")
async def create(request: Request, access: AccessDep) -> JSONResponse:
    """Announces a repository. A patch has a family when something says what its base is; a base is made a family at once."""
    body, principal = parsed(request, CreateIn), access.authenticate()
    repository = _named(body, principal)

    def make(uow: UnitOfWork) -> bool:
        if repository.kind == "base":
            return base_pushes.announce(uow, principal, repository)
        return pushes.announce(uow, principal, repository)

    is_new = await run_in_threadpool(run_with_retry, access.registry.write, make)
    answer = {"url": address(request, repository.full_name), "name": repository.full_name, "id": repository.full_name}
    if not is_new:
        refusal = DomainError("push.exists", repository=repository.full_name)
        refused = {**body_of(refusal, 409), **answer, "error": str(refusal)}  # clients take the address from it
        return JSONResponse(refused, 409, {MESSAGE: in_a_header(str(refusal))}, MEDIA_TYPE)
    public = body.private is False or body.visibility == "public"
    said = "Patches are seen by their owner, and bases by whom their family is granted to; nothing is public here."
    return JSONResponse(answer, headers=warning("visibility", said) if public else {})


@router.delete("/api/repos/delete")
async def delete(request: Request, access: AccessDep) -> JSONResponse:
    """Takes back a repository that never became a patch."""
    principal = access.authenticate()
    repository = _named(parsed(request, CreateIn), principal)
    await run_in_threadpool(run_with_retry, access.registry.write, lambda uow: pushes.forget(uow, principal, repository))
    return JSONResponse({})


@router.post("/api/validate-yaml")
@buffers_body(None)
async def validate_card(request: Request, access: AccessDep) -> JSONResponse:  # noqa: ARG001  authenticates the caller
    """Whether the front matter of a card can be read; a card that cannot be is kept all the same."""
    body = parsed(request, CardIn)
    if await run_in_threadpool(is_readable, body.content.encode(errors="replace")):
        return JSONResponse({"errors": [], "warnings": []})
    said = "The front matter is no YAML that is understood here: licence and tags will not be shown."
    return JSONResponse({"errors": [], "warnings": [{"message": said}]})


@router.post("/api/models/{owner}/{name}/tag/{revision:path}")
async def create_tag(owner: str, name: str, revision: str, request: Request, access: AccessDep) -> JSONResponse:
    """Pins a version: an alias that points at it."""
    body, principal = parsed(request, TagIn), access.authenticate()
    repository = parse_repository(owner, name)

    def make(uow: UnitOfWork) -> None:
        _require_tags(principal, repository)
        thing = repositories.find(uow, principal, repository, revision)
        number = thing.version.number if isinstance(thing, Adapter) else None
        if number is None:
            raise unknown_revision(repository, revision)
        if body.tag in patches.aliases(uow, patches.get(uow, principal, owner, name)):
            raise DomainError("push.tag_exists", repository=repository.full_name, tag=body.tag)
        patches.set_alias(uow, principal, owner, name, body.tag, str(number))

    await run_in_threadpool(run_with_retry, access.registry.write, make)
    return JSONResponse({})


@router.delete("/api/models/{owner}/{name}/tag/{tag:path}")
def delete_tag(owner: str, name: str, tag: str, access: AccessDep) -> JSONResponse:
    """Takes an alias away; the version stays."""
    repository, principal = parse_repository(owner, name), access.authenticate()
    _require_tags(principal, repository)
    run_with_retry(access.registry.write, lambda uow: patches.remove_alias(uow, principal, owner, name, tag))
    return JSONResponse({})


@router.post("/api/models/{owner}/{name}/branch/{branch:path}")
def create_branch(owner: str, name: str, branch: str, access: AccessDep) -> JSONResponse:
    """Of a base, the release that is going to be pushed; a patch has no branches."""
    repository, principal = parse_repository(owner, name), access.authenticate()
    require_push(principal, repository)
    if repository.kind == "base":
        is_new = _begin_release(access.registry, principal, repository, branch)
    elif branch == MAIN:
        is_new = False
    else:
        raise DomainError("push.revision", repository=repository.full_name, revision=branch[:100])
    if not is_new:
        raise DomainError("push.exists", repository=f"{repository.full_name}@{branch}"[:200])
    return JSONResponse({})


def _begin_release(registry: Registry, principal: Principal, repository: Repository, release: str) -> bool:
    return bool(run_with_retry(registry.write, lambda uow: base_pushes.begin(uow, principal, repository, release)))


def _require_tags(principal: Principal, repository: Repository) -> None:
    require_push(principal, repository)
    if repository.kind != "patch":
        raise DomainError("push.tags", repository=repository.full_name)


def _named(body: CreateIn, principal: Principal) -> Repository:
    if body.type not in (None, "model"):
        raise DomainError("push.type", type=body.type)
    return parse_repository(body.organization or principal.owner, body.name)

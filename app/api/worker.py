"""A worker's endpoints: health, what it is, and merged files for whoever brings a signed address."""

from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.api.readiness import readiness
from app.api.schemas.jobs import AboutOut
from app.api.schemas.system import HealthOut, ReadyOut
from app.domain.errors import DomainError
from app.domain.principal import INSTALLATION, Principal
from app.domain.signing import check_read
from app.http.access import RegistryDep
from app.http.app import surround
from app.http.merged_files import respond_merged
from app.http.merged_response import ConditionsDep
from app.http.telemetry import MetricsOptions, require_watcher
from app.services.access import tokens
from app.services.jobs import workers
from app.services.jobs.workers import WorkerInfo
from app.services.patches.tombstones import reread_if_purged
from app.services.ports import ports
from app.services.registry import Registry

router = APIRouter()


@router.get("/healthz")
async def healthz() -> HealthOut:
    """The process answers, also while all of its worker threads are busy."""
    return HealthOut(status="ok")


@router.get("/readyz")
async def readyz(registry: RegistryDep) -> ReadyOut:
    """Database, bytes and the engine of its jobs answer, each within two seconds; 503 with server.unready where one does not."""
    return await readiness(registry)


@router.get("/about", dependencies=[Depends(require_watcher)])
def about(registry: RegistryDep) -> AboutOut:
    """What it is, for whoever may see its metrics."""
    worker_info = _info(registry)
    return AboutOut(
        id=worker_info.id, class_name=worker_info.class_name, version=worker_info.version,
        device=worker_info.device, memory_bytes=worker_info.memory_bytes, labels=worker_info.labels,
    )  # fmt: skip


@router.head("/ports/{port}/files/{path:path}", response_class=Response)
@router.get("/ports/{port}/files/{path:path}", response_class=Response)
async def read_file(
    port: str,
    path: str,
    request: Request,
    registry: RegistryDep,
    conditions: ConditionsDep,
    expires: Annotated[int, Query(ge=0, lt=2**40)],
    signature: Annotated[str, Query(max_length=64)],
    token: Annotated[str, Query(max_length=40)] = "",
) -> Response:
    """One file of a merged model, as the service answers it."""
    check_read(registry.tools.secret_keys, _info(registry).id, port, path, expires, signature, token)
    # URLs signed by an older service name no token; that service has checked that the client may read the file.
    service = Principal(INSTALLATION, frozenset({"admin"}), "signature")

    def read() -> Response:
        with registry.read() as uow:
            workers.require_fresh(uow, expires)
            principal = tokens.holder(uow, token) if token else service
            row = ports.readable(uow, principal, port)
        return respond_merged(request, conditions, registry, row, path, principal)

    return await run_in_threadpool(reread_if_purged, read)


def _info(registry: Registry) -> WorkerInfo:
    if registry.worker_info is None:
        raise DomainError("worker.unready", reason="has not started")
    return registry.worker_info


def mount(app: FastAPI, metrics: MetricsOptions) -> None:
    """Adds routes, error handlers and bounds to a worker's application."""
    app.include_router(router)
    surround(app, None, metrics)

"""What answers without a token: health and the documentation of errors."""

from fastapi import APIRouter

from app.api.readiness import readiness
from app.api.schemas.system import CodeOut, HealthOut, ReadyOut
from app.domain.errors import DomainError
from app.http.access import RegistryDep
from app.http.problems import codes, document

router = APIRouter()


@router.get("/healthz", tags=["health"])
async def healthz() -> HealthOut:
    """The process answers, also while all of its worker threads are busy."""
    return HealthOut(status="ok")


@router.get("/readyz", tags=["health"])
async def readyz(registry: RegistryDep) -> ReadyOut:
    """Database, bytes and jobs answer, each within two seconds; 503 with server.unready where one does not."""
    return await readiness(registry)


@router.get("/problems", tags=["errors"])
def list_codes() -> list[str]:
    """All codes of errors and findings."""
    return codes()


@router.get("/problems/{code}", tags=["errors"])
def get_code(code: str) -> CodeOut:
    """What the code of an error or a finding means, and what to do."""
    found = document(code)
    if found is None:
        raise DomainError("request.route", path=f"/problems/{code[:100]}")
    return CodeOut(**found)

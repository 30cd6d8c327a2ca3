"""/readyz, of the service and of its workers."""

import asyncio

from app.api.schemas.system import PartOut, ReadyOut
from app.domain.errors import DomainError
from app.services.backend import Backend


async def readiness(backend: Backend) -> ReadyOut:
    """How each part answered.

    Waits without a thread: probes that come while a part hangs take nothing from requests that go on.

    Raises:
        DomainError: server.unready, with the parts as its data.
    """
    parts = await asyncio.wrap_future(backend.readiness.ask())
    failed = [f"{name}: {part.reason}" for name, part in parts.items() if not part.ok]
    if failed:
        shown = {name: part.to_dict() for name, part in parts.items()}
        raise DomainError("server.unready", reason="; ".join(failed).rstrip("."), parts=shown)
    return ReadyOut(status="ok", parts={name: PartOut(**part.to_dict()) for name, part in parts.items()})

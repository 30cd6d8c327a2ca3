"""/readyz, of the service and of its workers."""

import asyncio

from app.api.schemas.system import ComponentOut, ReadyOut
from app.domain.errors import DomainError
from app.services.operations.readiness import Component
from app.services.registry import Registry

DRAINING = Component(ok=False, milliseconds=0.0, reason="the process is about to stop")


async def readiness(registry: Registry) -> ReadyOut:
    """Returns the state of each part; while the process drains, only the part `draining`.

    Waits without a thread: probes that come while a part hangs take nothing from requests that go on.

    Raises:
        DomainError: server.unready, with the parts as its data.
    """
    parts = {"draining": DRAINING} if registry.draining.is_set else await asyncio.wrap_future(registry.readiness.ask())
    failed = [f"{name}: {part.reason}" for name, part in parts.items() if not part.ok]
    if failed:
        shown = {name: part.to_dict() for name, part in parts.items()}
        raise DomainError("server.unready", reason="; ".join(failed).rstrip("."), parts=shown)
    return ReadyOut(status="ok", parts={name: ComponentOut(**part.to_dict()) for name, part in parts.items()})

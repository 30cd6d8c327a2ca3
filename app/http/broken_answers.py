"""Streamed answers that abort the connection on an error, so that no client takes a partial answer for a complete one."""

import logging

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.core.errors import CoreError
from app.domain.errors import DomainError

# The ASGI extension of our server (app.cli.protocol); its `abort` is a function that aborts the connection of the request.
ABORT = "portllm.abort"

log = logging.getLogger("portllm.answers")


class BreakableResponse(StreamingResponse):
    """A streamed answer that aborts the connection if an error occurs after its head was sent.

    An expected error (a withdrawn permission, a changed file, an unreachable store) is logged in one line. Any other error is a
    defect and keeps its traceback.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except (DomainError, CoreError, OSError) as error:
            extension = scope.get("extensions", {}).get(ABORT)
            if extension is None:  # another server: an exception makes it close the connection
                raise
            code = getattr(error, "code", type(error).__name__)
            log.warning("the answer to %s %s was broken off: %s [%s]", scope["method"], scope["path"], error, code)
            extension["abort"]()

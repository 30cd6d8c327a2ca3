"""The HTTP server of the service and of workers: how it stops.

1. The first SIGTERM or SIGINT announces the stop: `/readyz` answers 503, event streams end, jobs are handed back.
2. For `PORTLLM_DRAIN_DELAY_SECONDS` the listener still accepts, so that load balancers notice before connections are refused.
3. The listener closes. Requests under way get `PORTLLM_DRAIN_SECONDS`; what is left after that is cancelled.

A second signal ends the process at once, as kill -9 would.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from app.cli.serve import end_at_once
from app.services.backend import Backend
from app.services.threads import in_thread

DATE_SECONDS = 1.0

log = logging.getLogger("portllm.drain")


class DrainingServer(uvicorn.Server):
    """uvicorn's server with an announcement before its listener closes.

    Args:
        config: of uvicorn; its `timeout_graceful_shutdown` is how long requests under way get.
        backend: whose `draining` is set when the stop begins.
        delay_seconds: how long new connections are accepted after that.
        hand_back: ends the jobs of this process and gives them to others; called in a thread when the stop begins.
        at_once: called for each signal after the first.
    """

    def __init__(
        self, config: uvicorn.Config, backend: Backend, delay_seconds: float, hand_back: Callable[[], object],
        at_once: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(config)
        self._backend, self._delay, self._hand_back = backend, delay_seconds, hand_back
        self._at_once = at_once or end_at_once

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Announces the stop, waits for the delay, then lets uvicorn close the listener and wait for requests under way."""
        log.info(
            "draining: accepts for %g s, then requests under way get %s s", self._delay, self.config.timeout_graceful_shutdown
        )
        self._backend.draining.begin()
        in_thread(self._hand_back)
        loop = asyncio.get_running_loop()
        end = loop.time() + self._delay
        while (left := end - loop.time()) > 0:
            await asyncio.sleep(min(left, DATE_SECONDS))
            await self.on_tick(0)  # keeps the Date header of answers current
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handles a signal: the first begins the drain, each further one ends the process."""
        if self.should_exit:
            self._at_once(sig)
        else:
            super().handle_exit(sig, frame)

"""The HTTP server of the service and of workers, which stops gracefully:

1. The first SIGTERM or SIGINT announces the stop: `/readyz` answers 503, event streams end, jobs are handed back.
2. For `PORTLLM_DRAIN_DELAY_SECONDS` the listener still accepts connections, so that load balancers notice before it refuses them.
3. The listener closes. Requests in progress get `PORTLLM_DRAIN_SECONDS` to finish; then those that remain are cancelled.

A second signal ends the process at once, as kill -9 would.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from app.cli.serve import end_at_once
from app.services.background import in_thread
from app.services.registry import Registry

DATE_SECONDS = 1.0

log = logging.getLogger("portllm.drain")


class DrainingServer(uvicorn.Server):
    """A uvicorn server that announces its stop before it closes its listener.

    Args:
        config: uvicorn's configuration; `timeout_graceful_shutdown` is the time that requests in progress get to finish.
        registry: its `draining` is set when the stop begins.
        delay_seconds: how long new connections are still accepted after that.
        hand_back: stops the jobs of this process and hands them to other workers; called in a thread when the stop begins.
        at_once: called for each signal after the first.
    """

    def __init__(
        self, config: uvicorn.Config, registry: Registry, delay_seconds: float, hand_back: Callable[[], object],
        at_once: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(config)
        self._registry, self._delay, self._hand_back = registry, delay_seconds, hand_back
        self._at_once = at_once or end_at_once

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Announces the stop, waits for the delay, then lets uvicorn close the listener and wait for running requests."""
        log.info(
            "draining: accepts for %g s, then requests under way get %s s", self._delay, self.config.timeout_graceful_shutdown
        )
        self._registry.draining.begin()
        in_thread(self._hand_back)
        loop = asyncio.get_running_loop()
        end = loop.time() + self._delay
        while (left := end - loop.time()) > 0:
            await asyncio.sleep(min(left, DATE_SECONDS))
            await self.on_tick(0)  # keeps the Date header of answers current
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handles a signal: the first one starts the drain, any further one calls `at_once`."""
        if self.should_exit:
            self._at_once(sig)
        else:
            super().handle_exit(sig, frame)

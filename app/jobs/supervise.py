"""Starts a job's child process, follows its progress, and ends it."""

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from app.blobs.locations import OnS3
from app.blobs.s3.client import CHAIN, options
from app.domain.upstreams import Hub
from app.jobs.codec import contains, encode
from app.jobs.spawn import Launched, launch, log_lines

GRACE_SECONDS = 5.0
LINES_BYTES = 2**16
# What a child may know of the environment: where Python and its libraries are, how many threads, which devices, nothing else.
# What S3's client needs is added where an order names S3, and who is trusted with TLS where it names another hub.
AUTHORITIES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
PASSED_ON = (
    "PATH", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "OMP_NUM_THREADS", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES",
)  # fmt: skip

OnProgress = Callable[[dict[str, Any]], Awaitable[None]]

log = logging.getLogger("portllm.job")


class ChildError(Exception):
    """The child ended without a result; the argument says how."""


class BusyError(Exception):
    """The child could not do it now.

    Attributes:
        problem: why, in the language of all errors.
    """

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem["detail"])
        self.problem = problem


async def run(task: str, preload: Sequence[str], order: Any, device: str, on_progress: OnProgress) -> dict[str, Any]:
    """Runs a job in a child process.

    Args:
        task: the module that does it.
        preload: further modules to import before the process starts.
        order: a frozen dataclass, which `app.jobs.codec` encodes.
        device: where merged bytes are computed, by its name for torch.
        on_progress: awaited with every progress report; if it raises, the child is ended.

    Returns:
        {"result": ...} or {"error": ...}, the child's last line.

    Raises:
        ChildError: it crashed or was killed.
        BusyError: it may succeed later.
    """
    names, modules = _needs(order)
    message = {"task": task, "order": encode(order), "device": device, "s3": dataclasses.asdict(options())}
    try:
        process = await launch(_environment(PASSED_ON), _environment(names), [task, *modules, *preload])
    except OSError as error:  # no room for a process, or for its files
        raise ChildError(str(error)) from error
    log.debug("process %s began", process.pid)
    relay = asyncio.create_task(_relay(process.stderr))
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # how it ended says more
            process.stdin.write(json.dumps(message).encode() + b"\n")
            await process.stdin.drain()
        final: dict[str, Any] | None = None
        async for line in process.stdout:
            message = json.loads(line)
            if "progress" in message:
                await on_progress(message["progress"])
            else:
                final = message
        code = await process.wait()
        await relay
        log.debug("process %s ended with %s", process.pid, code)
        if final is None:
            raise ChildError(f"exit status {code}" if code >= 0 else f"signal {-code}")
        if "busy" in final:
            raise BusyError(final["busy"])
        return final
    finally:
        try:
            await _end(process)
        finally:
            relay.cancel()


def _environment(names: Iterable[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def _needs(order: Any) -> tuple[list[str], list[str]]:
    """Returns the additional environment variables that an order needs, and the modules for it that take long to import."""
    names, modules = list[str](), list[str]()
    if contains(order, OnS3):
        names += CHAIN
        modules += ["boto3", "botocore.config"]
    if contains(order, Hub):
        names += AUTHORITIES
        modules.append("app.jobs.tasks.download")
    return names, modules


async def _relay(stream: asyncio.StreamReader) -> None:
    """What a job's process complains of, as lines of this one's log, which know the job."""
    while line := await stream.read(LINES_BYTES):
        log_lines(line)


async def _end(process: Launched) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), GRACE_SECONDS)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    except asyncio.CancelledError:  # a second time, as when a worker is stopped: nobody waits any more
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise

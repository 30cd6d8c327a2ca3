"""The child process of a job: reads its order from stdin, prints JSON lines, exits when stdin closes. The order is one line:

    {"task": the module whose `run(order, context)` does the job, "order": as `app.jobs.codec` encodes it,
     "device": name for torch, "s3": options}

It answers with:

    {"progress": {"done": bytes, "total": bytes, "note": text, "rate": bytes/s,
                  "tensors_done": count or null, "tensors_total": count or null}}         at most once a second
    {"result": {...}}  or  {"error": {"code", "title", "detail", "remedy"}}  or  {"busy": the same}      the last line

"busy" is a temporary error (for example, the store does not respond): the same order may succeed later.

It has no database URL and no tokens. stdin stays open as long as the parent lives, so end of file means that the
result is no longer needed. A parent-death signal would not suffice: it is tied to the thread that spawned the process.
"""

import errno
import importlib
import json
import os
import sys
import threading
import time
import typing
from typing import Any

from app.blobs.s3 import client
from app.core.errors import CoreError
from app.domain.errors import DomainError
from app.jobs.codec import decode, encode
from app.jobs.tasks.context import StartReport, TaskContext

PARENT_GONE = 3
REPORT_SECONDS = 1.0


class Reporter:
    """Adds up progress and prints it at most once a second.

    Args:
        total: how much there is to do, in bytes.
        note: what is done, in a word or two.
        tensors: how many there are, where the work counts them.
    """

    def __init__(self, total: int, note: str, tensors: int | None = None) -> None:
        self._total, self._note, self._tensors_total = total, note, tensors
        self._done = self._told = self._tensors = 0
        self._last = time.monotonic() - REPORT_SECONDS
        self._first = True

    def __call__(self, more: int, tensors: int = 0) -> None:
        self._done += more
        self._tensors += tensors
        passed = time.monotonic() - self._last
        if passed < REPORT_SECONDS:
            return
        # The first report comes at once and says only that the work has begun.
        rate = 0.0 if self._first else (self._done - self._told) / passed
        self._first, self._told, self._last = False, self._done, time.monotonic()
        counted = None if self._tensors_total is None else self._tensors
        say(
            {
                "progress": {
                    "done": self._done, "total": self._total, "note": self._note, "rate": round(rate),
                    "tensors_done": counted, "tensors_total": self._tensors_total,
                }
            }
        )  # fmt: skip


def say(message: dict[str, Any]) -> None:
    """One JSON line to the parent."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def hear() -> Any:
    """The parent's next line of JSON; ends this process where the parent ended before it could say it."""
    if not (given := sys.stdin.readline()):
        sys.exit(PARENT_GONE)
    return json.loads(given)


def main() -> None:
    """Does one job."""
    message = hear()
    client.configure(client.S3Options(**message.get("s3", {})))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    say(outcome(message, Reporter))


def outcome(message: dict[str, Any], start_report: StartReport) -> dict[str, Any]:
    """Does a job in this process; returns the last line that its process prints."""
    run = importlib.import_module(message["task"]).run
    order = decode(typing.get_type_hints(run)["order"], message["order"])
    try:
        return {"result": encode(run(order, TaskContext(start_report, message.get("device", "cpu"))))}
    except CoreError as error:
        return {"error": error.to_problem()}
    except DomainError as error:
        return {"busy" if error.kind == "busy" else "error": error.to_problem()}
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return {"error": DomainError("server.storage_full").to_problem()}


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(PARENT_GONE)


if __name__ == "__main__":
    main()

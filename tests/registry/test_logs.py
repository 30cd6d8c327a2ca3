"""Lines of the log: the ids of request and job are in each, secrets in none, whatever they came in by."""

import asyncio
import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from app.cli import logs
from app.domain.context import JOB_ID, REQUEST_ID
from app.jobs import process
from tests.registry.service import Service


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[dict[str, object]]]]:
    """The lines of a service that logs JSON at debug level, and knows a secret of its own."""
    monkeypatch.setattr(logs, "_known", ["a-known-secret"])
    written, ours, root = io.StringIO(), logging.getLogger("portllm"), logging.getLogger()
    handler, level = logging.StreamHandler(written), ours.level
    handler.setFormatter(logs.JsonLines(logs.TEXT, rename_fields=logs.RENAMED))
    handler.addFilter(logs.Context())
    root.addHandler(handler)
    ours.setLevel(logging.DEBUG)
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    root.removeHandler(handler)
    ours.setLevel(level)


SECRETS = [
    ("Authorization: Bearer plt_0123456789", "0123456789"), ("token plt_abcdefghij", "abcdefghij"),
    ('{"token":"eyJhbGciOi.eyJzdWIi.c2lnbmVk"}', "c2lnbmVk"),
    ("GET /x?X-Amz-Credential=k%2F2026&X-Amz-Signature=0a1b2c3d4e", "0a1b2c3d4e"),
    ("/files?expires=1&signature=5e6f7a8b", "5e6f7a8b"),
    ("AWS4-HMAC-SHA256 SignedHeaders=host, Signature=0a1b2c3d", "0a1b2c3d"), ("Signature:\n0a1b2c3d", "0a1b2c3d"),
    ("postgresql+psycopg://user:pass:word@host/name", "pass:word"), ("it says a-known-secret to all", "a-known-secret"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_secrets_are_masked(text: str, secret: str, said: Callable[[], list[dict[str, object]]]) -> None:
    """In messages, arguments, fields and traces."""
    log = logging.getLogger("portllm.test")
    log.warning(text)
    log.warning("%s", text)
    log.warning("x", extra={"field": {"inner": text}})
    try:
        raise RuntimeError(text)
    except RuntimeError:
        log.exception("y")
    lines = said()
    assert len(lines) == 4
    assert "RuntimeError" in str(lines[3]["exc_info"])
    assert secret not in json.dumps(lines)
    assert json.dumps(lines).count("***") >= 4


def test_ids(said: Callable[[], list[dict[str, object]]]) -> None:
    """Of what is being done; those that a line brings itself go before."""
    REQUEST_ID.set("r1")
    JOB_ID.set("acme:digest:x-0")
    logging.getLogger("portllm.test").debug("abc")
    logging.getLogger("portllm.test").info("x", extra={"job_id": "other"})
    REQUEST_ID.set(None)
    JOB_ID.set(None)
    logging.getLogger("elsewhere").warning("x")
    found = [(line["message"], line["request_id"], line["job_id"], line["level"]) for line in said()]
    assert found == [
        ("abc", "r1", "acme:digest:x-0", "DEBUG"), ("x", "r1", "other", "INFO"), ("x", None, None, "WARNING"),
    ]  # fmt: skip


def test_what_a_process_of_a_job_complains_of(said: Callable[[], list[dict[str, object]]]) -> None:
    """Its standard error is lines of its parent's log, under the job's id: a trace is no line of another form."""

    async def run() -> None:
        JOB_ID.set("registry:ingest:rel_1-1")
        with pytest.raises(process.ChildError, match="exit status 1"):
            await process.run({"kind": "no such kind", "order": {}}, lambda _: asyncio.sleep(0))

    asyncio.run(run())
    lines = [line for line in said() if line["name"] == "portllm.job"]
    assert {line["job_id"] for line in lines} == {"registry:ingest:rel_1-1"}
    assert "KeyError: 'no such kind'" in [line["message"] for line in lines]
    assert "process" in str(lines[0]["message"])


def test_from_a_request_to_its_job(fresh: Callable[..., Service]) -> None:
    """The id that a request brought is known to whatever is done for it."""
    seen: list[str | None] = []
    service = fresh()
    read = service.runtime.read

    def noting() -> object:
        seen.append(REQUEST_ID.get())
        return read()

    service.runtime.read = noting  # type: ignore[method-assign,assignment]
    service.admin.get("/whoami", headers={"X-Request-Id": "my-id"})
    assert "my-id" in seen


def test_what_python_would_print_itself() -> None:
    """A warning and a thread that fails are lines of the log as everything else, in a process that was set up for JSON."""
    program = (
        "import threading, warnings; from app.cli import logs; logs.configure('json')\n"
        "warnings.warn('look here')\n"
        "thread = threading.Thread(target=lambda: 1 / 0, name='house'); thread.start(); thread.join()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["name"] for line in lines] == ["py.warnings", "portllm.threads"]
    assert "look here" in lines[0]["message"]
    assert (lines[1]["message"], "ZeroDivisionError" in lines[1]["exc_info"]) == ("house failed", True)

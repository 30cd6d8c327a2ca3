"""Lines of the log: the ids of request and job are in each, secrets in none, whatever they came in by."""

import asyncio
import datetime as dt
import errno
import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator

import psycopg
import pytest
from sqlalchemy import exc

from app.cli import logs
from app.domain.errors import DomainError
from app.domain.log_context import JOB_ID, REQUEST_ID
from app.jobs import supervise
from tests.support.registry import Service


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


def test_log_lines_carry_the_ids_of_their_context(said: Callable[[], list[dict[str, object]]]) -> None:
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


def test_stderr_of_a_jobs_process_is_logged_under_the_jobs_id(said: Callable[[], list[dict[str, object]]]) -> None:
    """Its standard error is lines of its parent's log, under the job's id: a trace is no line of another form."""

    async def run() -> None:
        JOB_ID.set("registry:ingest:rel_1-1")
        with pytest.raises(supervise.ChildError, match="exit status 1"):
            await supervise.run("no_such_task", (), None, "cpu", lambda _: asyncio.sleep(0))

    asyncio.run(run())
    lines = [line for line in said() if line["name"] == "portllm.job"]
    assert {line["job_id"] for line in lines} == {"registry:ingest:rel_1-1"}
    assert "ModuleNotFoundError: No module named 'no_such_task'" in [line["message"] for line in lines]
    assert "process" in str(lines[0]["message"])


def test_job_has_the_id_of_the_request_that_made_it(fresh: Callable[..., Service]) -> None:
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


def test_warnings_and_failed_threads_are_logged_as_json() -> None:
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


def test_line_of_the_log_begins_with_a_time_of_rfc_3339_and_is_one_line() -> None:
    """With a zone, in both forms; line ends and control characters of a message are escaped."""
    program = (
        "import logging, sys; from app.cli import logs; logs.configure(sys.argv[1])\n"
        "logging.getLogger('portllm.test').warning('one\\ntwo\\x1b[2J\\u2028three')\n"
    )
    for form in ("text", "json"):
        ended = subprocess.run([sys.executable, "-c", program, form], capture_output=True, text=True, check=True)
        (line,) = ended.stderr.splitlines()
        assert "\x1b" not in line
        time = json.loads(line)["time"] if form == "json" else line.split()[0]
        assert dt.datetime.fromisoformat(time).utcoffset() == dt.timedelta(0)
        if form == "text":
            assert line.endswith(r"one\ntwo\x1b[2J\u2028three")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DomainError("database.unreachable"), "[database.unreachable]"),
        (DomainError("storage.unavailable", reason="it answered 503"), "[storage.unavailable]"),
        (DomainError("server.storage_full"), "[server.storage_full]"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "No space left on device (/data/x)"),
        (exc.OperationalError("SELECT secret", {}, psycopg.OperationalError("connection refused\nmore")), "connection refused"),
        (psycopg.OperationalError("the connection is lost\nmore"), "the connection is lost"),
    ],
)
def test_database_or_store_that_is_away_or_full_is_a_warning_of_one_line(error: Exception, told: str) -> None:
    """Whoever logs it with its trace."""
    record = logging.LogRecord("portllm.test", logging.ERROR, "x", 1, "%s failed", ("house",), (type(error), error, None))
    assert logs.Unavailable().filter(record)
    assert (record.levelno, record.exc_info) == (logging.WARNING, None)
    assert record.getMessage().startswith("house failed: ")
    assert told in record.getMessage()
    assert "\n" not in record.getMessage()
    assert "secret" not in record.getMessage()


def test_trace_that_the_job_engine_writes_as_a_message_is_one_line() -> None:
    """Of a database that is away; it has no error attached."""
    text = (
        "Exception polling schedules: Traceback (most recent call last):\n  File x\npsycopg.OperationalError: inner\n\nThe\n"
        "sqlalchemy.exc.OperationalError: (psycopg.OperationalError) refused\nBackground"
    )
    record = logging.LogRecord("dbos", logging.WARNING, "x", 1, text, None, None)
    assert logs.Unavailable().filter(record)
    assert record.getMessage() == "Exception polling schedules: psycopg.OperationalError: inner"


def test_error_that_only_a_mistake_explains_keeps_its_trace() -> None:
    """A table that is not there, a division by zero."""
    for error in (ZeroDivisionError("x"), exc.ProgrammingError("SELECT", {}, psycopg.errors.UndefinedTable("no table"))):
        record = logging.LogRecord("portllm.test", logging.ERROR, "x", 1, "failed", None, (type(error), error, None))
        assert logs.Unavailable().filter(record)
        assert (record.levelno, record.exc_info is not None) == (logging.ERROR, True)


def test_access_line_names_resource_client_and_token(
    fresh: Callable[..., Service], said: Callable[[], list[dict[str, object]]]
) -> None:
    """The template of the route and what the path gives to it; never the query, nor the secret of the token."""
    service = fresh()
    token = service.admin.get("/whoami").json()["token"]
    service.admin.get("/families/llama/releases/v%E2%80%A81?signature=abcdef")
    service.client.get("/nowhere/at/all")
    *_, mine, nowhere = [line for line in said() if line["name"] == "portllm.access"]
    assert (mine["route"], mine["resource"]) == ("/api/v1/families/{family}/releases/{release}", r"family=llama release=v\u20281")
    assert (mine["client"], mine["owner"], mine["token"]) == ("testclient", "admin", token)
    expected = rf"GET {mine['route']} {mine['resource']} 404 client=testclient owner=admin token={token}"
    assert mine["message"] == expected.replace(f" {mine['resource']} 404", f" 404 {mine['resource']}")
    assert "abcdef" not in json.dumps(mine)
    assert (nowhere["route"], nowhere["resource"], nowhere["token"]) == ("(none)", "/nowhere/at/all", None)

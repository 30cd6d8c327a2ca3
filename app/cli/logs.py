"""Logging, set up once by whoever starts a process: lines for people, or JSON objects for machines; secrets in neither."""

import asyncio
import datetime as dt
import errno
import logging
import logging.config
import os
import re
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pythonjsonlogger.json import JsonFormatter

from app.domain.log_context import JOB_ID, REQUEST_ID
from app.text import visible

if TYPE_CHECKING:
    from app.settings import Settings

# Whatever stands behind these words is a secret: tokens (eyJ begins a JWT), signatures of addresses and requests, keys,
# passwords in URLs.
SECRETS = re.compile(
    r"(plt_|\beyJ|[Bb]earer |[?&](?:signature|X-Amz-Signature|X-Amz-Credential|X-Amz-Security-Token)="
    r"|\bSignature[=:](?:\s|\\n)*|\w+://[^\s:/@\"']+:(?=[^\s/@\"']+@))[^\s&\"'\\@,]+"
)
MASK = "***"
# Shorter ones are no secrets worth the name, and would mask half of every line.
SHORTEST = 6
TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"
TRACE = "Traceback (most recent call last)"
AWAY = re.compile(r"^[\w.]*(?:OperationalError|InterfaceError|AdminShutdown)\b.*", re.MULTILINE)
RENAMED = {"asctime": "time", "levelname": "level"}
# What libraries print below this are the requests that they make, headers and statements included.
QUIET = ("botocore", "boto3", "s3transfer", "urllib3", "httpx", "httpcore", "sqlalchemy", "psycopg", "uvicorn.access")

_known: list[str] = []


class Context(logging.Filter):
    """Adds the ids of the request and of the job that a line is about."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name, variable in (("request_id", REQUEST_ID), ("job_id", JOB_ID)):
            if not getattr(record, name, None):
                setattr(record, name, variable.get())
        return True


class Unavailable(logging.Filter):
    """Replaces an error with a traceback by a warning of one line if a database or store is unreachable or full, or if the
    server cancelled a request because it stops.

    Such an error is not a defect in the code, repeats every few seconds, and needs no traceback to be understood.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, asyncio.CancelledError) and record.name == "uvicorn.error":
            _make_warning(record, "a request that was not done within PORTLLM_DRAIN_SECONDS was cut")
        elif error is not None and (reason := unavailability(error)):
            _make_warning(record, f"{record.getMessage()}: {reason}")
        elif record.name == "dbos" and (found := AWAY.search(text := record.getMessage())):  # DBOS puts tracebacks into messages
            record.msg, record.args = f"{text.partition(TRACE)[0].strip()} {found[0]}", None
        return True


def _make_warning(record: logging.LogRecord, text: str) -> None:
    record.msg, record.args = text, None
    record.exc_info = record.exc_text = None
    record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)


class Rfc3339(logging.Formatter):
    """Formats timestamps as RFC 3339 in UTC."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802  as in logging
        return dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds")


class TextLines(Rfc3339):
    """Log lines for people: line breaks in a message are escaped, so that only a traceback takes more than one line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the base class's name
        return visible(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        return redacted(visible(super().format(record), keep="\n\t"))


class JsonLines(Rfc3339, JsonFormatter):
    """JSON objects for machines. The whole line is redacted: traces and extra fields hold secrets as well as messages."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def unavailability(error: BaseException) -> str | None:
    """Returns in one line why a database or store is unreachable or full; None for any other error."""
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from app.db.errors import refusal_of  # noqa: PLC0415
    from app.domain.errors import DomainError  # noqa: PLC0415

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.strerror}{f' ({error.filename})' if error.filename else ''}"
    refusal = refusal_of(error) if isinstance(error, SQLAlchemyError) else error
    if isinstance(refusal, DomainError) and refusal.kind in ("busy", "full"):
        told = error if refusal is not error else error.__cause__
        cause = str(getattr(told, "orig", None) or told or "").partition("\n")[0]
        return f"{refusal.detail} [{refusal.code}]{f' {cause}' if cause else ''}"
    if type(error).__module__.startswith("psycopg") and type(error).__name__ in (
        "OperationalError",
        "PoolTimeout",
        "AdminShutdown",
    ):
        return str(error).partition("\n")[0]
    return None


def redacted(text: str) -> str:
    """A line without secrets, whoever let them into it."""
    for secret in _known:
        text = text.replace(secret, MASK)
    return SECRETS.sub(rf"\1{MASK}", text)


def secrets_of(settings: "Settings") -> list[str]:
    """The secrets that this process was given."""
    from sqlalchemy import make_url  # noqa: PLC0415

    keys = [*([settings.secret_key] if settings.secret_key else []), *settings.secret_keys_accepted]
    given = [secret.get_secret_value() for secret in (settings.metrics_token, *keys)]
    url = make_url(settings.database_url)
    password = url.password or url.query.get("password")
    names = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PORTLLM_TOKEN")
    return [*given, str(password or ""), *(os.environ.get(name, "") for name in names)]


def configure(log_format: str, level: str = "", secrets: Iterable[str] = ()) -> None:
    """Sends everything of ours, and warnings of others, to standard error.

    Args:
        log_format: "text" or "json".
        level: of our own lines: "debug", "info" or "warning"; "" for what suits the format.
        secrets: what must never be written, beside what is a secret by its form.
    """
    _known[:] = sorted({secret for secret in secrets if len(secret) >= SHORTEST}, key=len, reverse=True)
    formatters: dict[str, Any] = {
        "text": {"()": TextLines, "fmt": TEXT},
        "json": {"()": JsonLines, "fmt": TEXT, "rename_fields": RENAMED},
    }
    handler = {"class": "logging.StreamHandler", "formatter": log_format, "filters": ["context", "unavailable"]}
    # People read what went wrong; a line for every request is for machines.
    ours = level.upper() or ("INFO" if log_format == "json" else "WARNING")
    loggers: dict[str, Any] = {name: {"level": "WARNING"} for name in QUIET}
    # The job engine would print lines of its own form otherwise.
    loggers["dbos"] = {"level": "WARNING", "handlers": ["stderr"], "propagate": False}
    loggers["portllm"] = {"level": ours}
    logging.config.dictConfig(
        {
            "version": 1, "disable_existing_loggers": False, "formatters": formatters, "handlers": {"stderr": handler},
            "filters": {"context": {"()": Context}, "unavailable": {"()": Unavailable}},
            "root": {"level": "WARNING", "handlers": ["stderr"]}, "loggers": loggers,
        }
    )  # fmt: skip
    # What Python itself would print in a form of its own.
    logging.captureWarnings(True)
    threading.excepthook = _thread_failed


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_type is not SystemExit and failed.exc_value is not None:
        name = failed.thread.name if failed.thread else "a thread"
        logging.getLogger("portllm.threads").error("%s failed", name, exc_info=failed.exc_value)

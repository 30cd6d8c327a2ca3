"""Logging, set up once by whoever starts a process: lines for people, or JSON objects for machines."""

import logging
import logging.config
import re

# Whatever stands behind these words is a secret: tokens, signatures of addresses, keys.
SECRETS = re.compile(r"(plt_|[Bb]earer |[?&](?:signature|X-Amz-Signature|X-Amz-Credential|X-Amz-Security-Token)=)[^\s&\"']+")
TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"
RENAMED = {"asctime": "time", "levelname": "level"}


class Redacted(logging.Filter):
    """Masks secrets, whoever let them into a message; adds the request's id."""

    def filter(self, record: logging.LogRecord) -> bool:
        from app.api.telemetry import REQUEST_ID  # noqa: PLC0415  only processes that serve have it

        text = record.getMessage()
        if SECRETS.search(text):
            record.msg, record.args = SECRETS.sub(r"\1***", text), None
        if not getattr(record, "request_id", None):
            record.request_id = REQUEST_ID.get()
        return True


def configure(log_format: str) -> None:
    """Sends everything from INFO (ours) and WARNING (others) on to standard error.

    Args:
        log_format: "text" or "json".
    """
    formatters = {
        "text": {"format": TEXT},
        "json": {"()": "pythonjsonlogger.json.JsonFormatter", "format": TEXT, "rename_fields": RENAMED},
    }
    handler = {"class": "logging.StreamHandler", "formatter": log_format, "filters": ["redacted"]}
    # People read what went wrong; a line for every request is for machines.
    ours = "INFO" if log_format == "json" else "WARNING"
    logging.config.dictConfig(
        {
            "version": 1, "disable_existing_loggers": False, "formatters": formatters, "handlers": {"stderr": handler},
            "filters": {"redacted": {"()": Redacted}}, "root": {"level": "WARNING", "handlers": ["stderr"]},
            "loggers": {"portllm": {"level": ours}, "uvicorn.access": {"level": "WARNING"}},
        }
    )  # fmt: skip

"""What is being done just now, for whoever writes a line about it: follows calls, tasks and threads of the pool."""

from contextvars import ContextVar

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
JOB_ID: ContextVar[str | None] = ContextVar("job_id", default=None)

"""A running registry for tests: the real application on a data directory of its own, and callers with tokens.

Jobs: DBOS is a singleton and stays off in this process, so `Settings.jobs` is False and the queue (`jobs.none.NullQueue`) only
remembers what was enqueued. `run_jobs` runs it by the engine's own state machine (`app.jobs.runner`), with two real parts
of DBOS: its own schema, made by its own migrations in our database, and a PENDING row in it for the job. So the
question `still_ours` is asked of the real table, and a DBOS upgrade that renames a column fails here.

The database is SQLite in the data directory, or what `database_url` names.
"""

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import httpx
from dbos import run_dbos_database_migrations
from fastapi.testclient import TestClient
from sqlalchemy import Connection, Engine, NullPool, bindparam, create_engine, inspect, text

from app.db import job_indexes
from app.db.base import UtcDateTime
from app.jobs import child
from app.jobs.codec import encode
from app.jobs.engine import EXECUTOR
from app.jobs.null_queue import NullQueue
from app.jobs.runner import JobRunner, Outcome
from app.jobs.supervise import BusyError, OnProgress
from app.jobs.tasks.context import StartReport
from app.main import create_app
from app.runtime import Runtime
from app.settings import Settings
from tests.support import statements
from tests.support.uploads import announced, send

statements.share()
API = "/api/v1"
_numbers = itertools.count(1)
# As `app.jobs.child.outcome`: takes the message of a job's process and what starts reports, and returns its last line.
Do = Callable[[dict[str, Any], StartReport], dict[str, Any]]


def unique(stem: str) -> str:
    """A name that no other test uses: tests share a registry."""
    return f"{stem}{next(_numbers)}"


class Caller:
    """A client with a token; paths are below /api/v1."""

    def __init__(self, client: httpx.Client, token: str | None) -> None:
        self.client, self.token = client, token
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def __call__(self, method: str, path: str, whole: bool = False, **options: Any) -> httpx.Response:
        """`whole`: the path is one of any surface, not below the API's prefix."""
        headers = {**self._headers, **options.pop("headers", {})}
        return self.client.request(method, path if whole or path.startswith(API) else API + path, headers=headers, **options)

    def get(self, path: str, headers: dict[str, str] | None = None, **query: Any) -> httpx.Response:
        return self("GET", path, params=query, headers=headers or {})

    def post(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> httpx.Response:
        return self("POST", path, json=body, headers=headers or {})

    def head(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        return self("HEAD", path, headers=headers or {})

    # -- the main job, step by step; each asserts that the registry agreed

    def patch(self, owner: str, name: str, family: str = "llama") -> str:
        """Creates a patch; its full name."""
        created = self.post("/patches", {"owner": owner, "name": name, "family": family})
        assert created.status_code in (200, 201), created.text
        return f"{owner}/{name}"

    def draft(self, full_name: str, directory: Path, trained_on: str = "v1") -> dict[str, Any]:
        """Announces a directory as a version."""
        drafted = self.post(f"/patches/{full_name}/versions", {"trained_on": trained_on, "files": announced(directory)})
        assert drafted.status_code in (200, 201), drafted.text
        return dict(drafted.json())

    def uploaded(self, full_name: str, directory: Path, trained_on: str = "v1") -> dict[str, Any]:
        """A draft whose bytes have all arrived."""
        draft = self.draft(full_name, directory, trained_on)
        send(self, draft, directory)
        return draft

    def publish(self, full_name: str, directory: Path, trained_on: str = "v1") -> dict[str, Any]:
        """Announces, sends and publishes; the version."""
        draft = self.uploaded(full_name, directory, trained_on)
        published = self.post(f"/uploads/{draft['id']}/publish")
        assert published.status_code == 200, published.text
        return dict(published.json())

    def port(self, full_name: str, release: str, **wish: Any) -> dict[str, Any]:
        """Asks for a port, whatever becomes of it."""
        created = self.post("/ports", {"patch": full_name, "release": release, **wish})
        assert created.status_code in (200, 201), created.text
        return dict(created.json())

    def family(self, name: str) -> str:
        assert self.post("/families", {"name": name, "readers": ["*"]}).status_code == 201
        return name


class Service:
    """A registry on a directory: `models` and `place` may be registered from."""

    def __init__(self, root: Path, models: Path, **settings: Any) -> None:
        self.data, self.place = root / "data", root / "place"
        self.place.mkdir(parents=True)
        # Tests make hundreds of requests without a token, all from one address.
        bounds = {"rate_limit_failures": "", "warm": False, **settings}
        self.settings = Settings(jobs=False, data=self.data, allow_roots=[models, self.place], **bounds)
        self.app = create_app(self.settings)
        self.app.state.registry.job_queue = NullQueue  # also on PostgreSQL: this class does what workers would
        self.client = TestClient(self.app, raise_server_exceptions=False)
        self.admin = Caller(self.client, None)

    @property
    def runtime(self) -> Runtime:
        runtime: Runtime = self.app.state.registry
        return runtime

    @contextmanager
    def running(self) -> Iterator["Service"]:
        """Started, with the engine's schema in the database and an admin's caller."""
        with self.client:
            with self.connection() as connection:
                has_jobs = inspect(connection).has_table("workflow_status", schema=None if self.on_sqlite else "dbos")
            if not has_jobs:
                run_dbos_database_migrations(self.settings.database_url)
                job_indexes.create(self._engine)
            self.admin = Caller(self.client, (self.data / "admin-token").read_text().strip())
            yield self

    @property
    def on_sqlite(self) -> bool:
        return self.settings.is_embedded

    @property
    def jobs_table(self) -> str:
        """Where DBOS keeps its jobs."""
        return "workflow_status" if self.on_sqlite else "dbos.workflow_status"

    def caller(self, owner: str, *scopes: str) -> Caller:
        """Somebody with a token of their own."""
        made = self.admin.post("/tokens", {"owner": owner, "scopes": list(scopes or ("read", "publish"))})
        assert made.status_code == 201, made.text
        return Caller(self.client, made.json()["token"])

    def register(self, family: str, name: str, directory: Path, **body: Any) -> httpx.Response:
        return self.admin.post(f"/families/{family}/releases", {"name": name, "directory": str(directory), **body})

    def release(self, family: str, name: str, directory: Path, **body: Any) -> dict[str, Any]:
        """Registers a release and runs its job; the release as it then is."""
        registered = self.register(family, name, directory, **body)
        assert registered.status_code in (200, 202), registered.text
        self.run_jobs()
        return dict(self.admin.get(f"/families/{family}/releases/{name}").json())

    def run_jobs(self) -> None:
        """Does all the work that was enqueued."""
        for job, kind, _ in list(self.runtime.tools.jobs.enqueued):
            self.run_job(job, kind)
            self.runtime.tools.jobs.forget(job)

    def run_job(self, job: str, kind: str, do: Do = child.outcome) -> Outcome:
        """Runs one job by the engine's own state machine, with its work in this process; returns what the engine would store.

        Args:
            job: its id.
            kind: the name of its kind.
            do: what its process would do.
        """
        runtime, step = self.runtime, partial(in_this_process, do)
        runner = JobRunner(runtime.job_kinds, runtime.write, runtime.read, EXECUTOR, run_child=step, first_pause=0.0)
        self.job_row(job)
        outcome = asyncio.run(runner.job(job, kind, runner.attempt))
        self.job_row(job, status="SUCCESS")
        return outcome

    def job_row(self, job: str, status: str = "PENDING", executor: str = EXECUTOR) -> None:
        """Says in the engine's own table that a job is running here, or ended."""
        self.execute(
            f"INSERT INTO {self.jobs_table} (workflow_uuid, status, executor_id, name) VALUES (:job, :status, :executor, "
            "'portllm_job') ON CONFLICT (workflow_uuid) DO UPDATE SET status = :status, executor_id = :executor",
            job=job, status=status, executor=executor,
        )  # fmt: skip

    @cached_property
    def _engine(self) -> Engine:
        return create_engine(self.settings.database_url, poolclass=NullPool)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A transaction that the registry knows nothing of."""
        with self._engine.begin() as connection:
            yield connection

    def execute(self, statement: str, **values: Any) -> None:
        """Changes the database behind the registry's back; moments are bound as `moment`."""
        bound = text(statement)
        if "moment" in values:
            bound = bound.bindparams(bindparam("moment", type_=UtcDateTime()))
        with self.connection() as connection:
            connection.execute(bound, values)

    def rows(self, query: str, **values: Any) -> list[Any]:
        with self.connection() as connection:
            return [tuple(row) for row in connection.execute(text(query), values)]


async def in_this_process(
    do: Do, task: str, _preload: Sequence[str], order: Any, device: str, _on_progress: OnProgress
) -> dict[str, Any]:  # fmt: skip
    """`app.jobs.supervise.run` without a process: order and result go through JSON all the same, and progress goes nowhere."""
    message = json.loads(json.dumps({"task": task, "order": encode(order), "device": device}))
    final = json.loads(json.dumps(do(message, lambda *_: lambda *_: None)))
    if "busy" in final:
        raise BusyError(final["busy"])
    return dict(final)


def refused(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Asserts a refusal in the one language of errors, complete; the problem."""
    assert response.status_code == status, (response.status_code, response.text)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers.get_list("x-request-id")[0]
    problem = dict(response.json())
    assert problem["code"] == code, problem
    said = set(problem) - {"error"}  # which the clients of the Hub print
    assert said == {"type", "title", "status", "detail", "code", "remedy", "data"}
    assert problem["type"] == f"/problems/{code}"
    assert problem["status"] == status
    assert all(problem[key].strip() for key in ("title", "detail", "remedy"))
    assert "{" not in problem["detail"] + problem["remedy"], "an unfilled sentence"
    return problem

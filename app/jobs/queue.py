"""What the API needs of DBOS: enqueue, cancel, look; nothing is run here."""

import datetime as dt
import logging
from collections.abc import Sequence
from typing import Any

from dbos import DBOSClient, WorkflowSerializationFormat
from sqlalchemy.orm import Session

from app.db import job_queues
from app.db import jobs as rows
from app.db.engine import JOB_CONNECTIONS
from app.domain.errors import DomainError
from app.services.jobs import workers
from app.services.jobs.workers import CPU
from app.services.tools import JobStatus

APPLICATION = "portllm"
VERSION = "1"
WORKFLOW = rows.WORKFLOW
PROGRESS = "progress"
PORTABLE = WorkflowSerializationFormat.PORTABLE
log = logging.getLogger("portllm.jobs")
STATES = {status: state for state, statuses in rows.STATUSES.items() for status in statuses}


class DbosQueue:
    """`app.services.unit_of_work.JobQueue` on DBOS.

    Args:
        url: the database.
        ttl_seconds: seconds without a heartbeat after which a worker counts as dead.
        connections: the maximum number of database connections.
    """

    def __init__(self, url: str, ttl_seconds: float, connections: int = JOB_CONNECTIONS) -> None:
        self._ttl = ttl_seconds
        self._client = DBOSClient(
            system_database_url=url, application_name=APPLICATION, system_database_pool_size=connections
        )  # fmt: skip

    def enqueue(
        self, session: Session, job: str, kind: str, subject: str, *, merges: bool = False, urgent: bool = False
    ) -> None:  # fmt: skip
        class_name = workers.merging_class(session, self._ttl) if merges else CPU
        flow = job_queues.flow_of(job.partition(":")[0], kind)
        priority = job_queues.URGENT if urgent else job_queues.next_priority(session, class_name, flow)
        options: Any = {
            "workflow_name": WORKFLOW, "queue_name": class_name, "workflow_id": job, "app_version": VERSION,
            "serialization_type": PORTABLE, "priority": priority, "queue_partition_key": flow,
        }  # fmt: skip
        self._client.enqueue_in_transaction(session, options, job, kind, subject)
        # The line that leads from a request to its job.
        log.info("a job of kind %s waits", kind, extra={"job_id": job})

    def cancel(self, session: Session, job: str) -> bool:
        return rows.cancel(session, job)

    def status(self, job: str) -> JobStatus | None:
        return self.statuses([job]).get(job)

    def statuses(self, jobs: Sequence[str]) -> dict[str, JobStatus]:
        return {status.id: status for status in self._statuses(jobs)}

    def served(self, session: Session) -> set[str]:
        return workers.served(session, self._ttl)

    def live(self, session: Session) -> set[str]:
        return rows.live(session)

    def waiting(self, session: Session, owner: str) -> int:
        return job_queues.waiting(session, owner)

    def finished_before(self, session: Session, moment: dt.datetime, limit: int) -> Sequence[str]:
        return rows.finished_before(session, moment, limit)

    def delete(self, jobs: Sequence[str]) -> None:
        if jobs:
            self._client.delete_workflows(list(jobs))

    def page(
        self, session: Session, owner: str | None, kind: str | None, state: str | None, after: str | None, limit: int
    ) -> list[JobStatus]:
        return self._statuses(rows.page(session, WORKFLOW, owner, kind, state, after, limit))

    def close(self) -> None:
        """Closes its database connections."""
        self._client.destroy()

    def _statuses(self, jobs: Sequence[str]) -> list[JobStatus]:
        found = self._client.list_workflows(workflow_ids=list(jobs), load_input=False) if jobs else []
        by_id = {workflow.workflow_id: self._status(workflow) for workflow in found}
        return [by_id[job] for job in jobs if job in by_id]

    def _status(self, workflow: Any) -> JobStatus:
        state, problem = STATES[workflow.status], None
        output = workflow.output
        if state == "done" and isinstance(output, dict) and "error" in output:
            state, problem = "failed", output["error"]
        elif state == "failed":
            reason = str(workflow.error or "it was interrupted too often")[:300]
            problem = DomainError("job.crashed", reason=reason).to_problem()
        # Only what runs is asked for its progress: a list of hundreds of ended jobs is one query.
        progress = self._client.get_event(workflow.workflow_id, PROGRESS, timeout_seconds=0) if state == "running" else None
        return JobStatus(
            workflow.workflow_id, state, workflow.created_at, workflow.updated_at, progress, problem, workflow.queue_name,
            workflow.recovery_attempts or 0,
        )  # fmt: skip

"""Names inside DBOS that we use, with what they do: a version that renames one, or gives it another meaning, fails here.

DBOS is a singleton, so a process of its own runs it (`engine_facts.py`).
"""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What DBOS did."""
    url = f"sqlite:///{tmp_path_factory.mktemp('engine') / 'jobs.db'}"
    command = [sys.executable, "-m", "tests.support.engine_facts", url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_one_thread_by_this_name_takes_jobs_until_the_engine_stops(facts: dict[str, Any]) -> None:
    """`Engine.check`: "(queue_thread)"."""
    assert (facts["listeners"], facts["listeners_after"]) == (1, 0)


def test_limits_come_from_the_function_that_reads_a_queue(facts: dict[str, Any]) -> None:
    """`Engine._keep_own_limits`: the row allows three jobs at once, our `_sys_db.queue_from_db_row` one."""
    assert facts["most_at_once"] == 1


def test_running_jobs_are_in_the_set_of_active_ones(facts: dict[str, Any]) -> None:
    """`LostJobs`: `_active_workflows_set.activeList`."""
    assert facts["remembered_while_running"] is True


def test_cancelled_and_lost_jobs_raise_errors_of_these_names(facts: dict[str, Any]) -> None:
    """`_is_cancel` and `_is_lost`."""
    assert facts["cancelled"] == "DBOSWorkflowCancelledError"
    assert facts["cancelled_awaited"] == "DBOSAwaitedWorkflowCancelledError"
    assert facts["lost"] == "DBOSWorkflowConflictIDError"


def test_recovery_takes_jobs_of_the_named_executors_only(facts: dict[str, Any]) -> None:
    """`WorkerHeartbeat`: `DBOS._recover_pending_workflows`."""
    assert (facts["status_of_a_live_one"], facts["result_after_recovery"]) == ("PENDING", "lost")

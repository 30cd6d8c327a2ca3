"""A kind of job that is added by one module and one entry: everything that works on kinds works on it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of jobs of the kind, run by the real engine."""
    command = [sys.executable, "-m", "tests.support.toy_engine", str(tmp_path_factory.mktemp("toy") / "data")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_job_that_works_has_its_result_recorded(facts: dict[str, Any]) -> None:
    assert facts["first"]["works"] == {
        "state": "done", "answer": 0, "code": None, "ended": True, "job": "acme:toy:works-1",
    }  # fmt: skip


@pytest.mark.parametrize(("fate", "code"), [("fails", "upload.digest"), ("breaks", "job.crashed")])
def test_job_that_fails_has_its_problem_recorded(facts: dict[str, Any], fate: str, code: str) -> None:
    found = facts["first"][fate]
    assert (found["state"], found["code"], found["answer"]) == ("failed", code, None)


def test_running_job_that_is_cancelled_is_recorded_as_cancelled(facts: dict[str, Any]) -> None:
    assert facts["progress"] == "Doubling"
    found = facts["first"]["waits"]
    assert (found["state"], found["code"], found["answer"]) == ("cancelled", "job.cancelled", None)


def test_row_without_a_job_is_found_by_fsck_and_reconciled(facts: dict[str, Any]) -> None:
    (trouble,) = facts["stuck"]
    assert (trouble["code"], trouble["subject"]) == ("toy.stuck", "lost")
    assert "portllm jobs retry" in trouble["remedy"]
    found = facts["first"]["lost"]
    assert (found["state"], found["code"]) == ("failed", "job.crashed")


@pytest.mark.parametrize(("fate", "answer"), [("fails", 2), ("breaks", 4), ("waits", 6)])
def test_job_that_is_retried_is_the_next_attempt_and_is_recorded(facts: dict[str, Any], fate: str, answer: int) -> None:
    assert facts["second"][fate] == {
        "state": "done", "answer": answer, "code": None, "ended": True, "job": f"acme:toy:{fate}-2",
    }  # fmt: skip


def test_jobs_of_the_kind_are_listed_and_counted(facts: dict[str, Any]) -> None:
    assert facts["listed"] == 7
    assert facts["done"] == 4

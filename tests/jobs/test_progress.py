"""Progress: a job's process reports at most once a second, events tell of it every ten; bytes, tensors, rate."""

import asyncio
import json
from collections.abc import Callable

import pytest

from app.jobs import child, runner
from app.jobs.engine import EXECUTOR
from app.jobs.runner import TELL_SECONDS, JobRunner
from app.jobs.supervise import OnProgress
from tests.support.fixtures import Models
from tests.support.registry import Service


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_reports_of_a_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The first at once, then one a second, however often it adds up; the rate is that of the time since the last."""
    clock = Clock()
    monkeypatch.setattr(child, "time", clock)
    report = child.Reporter(10_000, "Reading", 50)
    for step in range(50):  # ten times a second, for five seconds
        report(100 if step < 25 else 200, 1)
        clock.now += 0.1
    said = [json.loads(line)["progress"] for line in capsys.readouterr().out.splitlines()]
    assert len(said) == 5
    assert said[0] == {"done": 100, "total": 10_000, "note": "Reading", "rate": 0, "tensors_done": 1, "tensors_total": 50}
    first, second, between, last = (s["rate"] for s in said[1:])
    assert (first, second, last) == pytest.approx((1000, 1000, 2000), rel=0.15)
    assert 1000 < between < 2000
    assert [s["done"] for s in said] == sorted(s["done"] for s in said)
    assert [s["tensors_done"] for s in said] == pytest.approx([1, 11, 21, 31, 41], abs=1)


def test_events_of_a_job(fresh: Callable[..., Service], models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute of reports, one a second: each is written for whoever looks at the job, every tenth is told as an event."""
    service, clock = fresh(), Clock()
    service.admin.family("llama")
    job = service.register("llama", "v1", models.v1).json()["job"]
    written: list[dict[str, object]] = []

    async def write(progress: dict[str, object]) -> None:
        written.append(progress)

    async def run(*given: object) -> dict[str, object]:
        on_progress: OnProgress = given[-1]  # type: ignore[assignment]
        for second in range(60):
            clock.now += 1
            await on_progress(
                {"done": second, "total": 60, "note": "Reading", "rate": 1, "tensors_done": second, "tensors_total": 60}
            )
        return {"error": {"code": "x", "title": "x", "detail": "x", "remedy": "x"}}

    monkeypatch.setattr(runner, "time", clock)
    service.job_row(job)
    runtime = service.runtime
    running = JobRunner(runtime.job_kinds, runtime.write, runtime.read, EXECUTOR, keep_progress=write, run_child=run)
    asyncio.run(running.job(job, "ingest", running.attempt))
    events = service.admin.get("/events", limit=500).json()["items"]
    told = [e["data"] for e in events if e["kind"] == "job.progress"]
    assert len(written) == 60
    assert [t["done"] for t in told] == [9, 19, 29, 39, 49, 59]
    assert TELL_SECONDS == 10
    assert {"done", "total", "rate", "tensors_done", "tensors_total"} <= told[0].keys()
    assert [e["kind"] for e in events if e["subject"] == job][-1] == "job.failed"

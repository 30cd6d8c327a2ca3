"""kill -9 of the embedded service while it reads releases and takes a patch: nothing half-visible, all of it goes on."""

from pathlib import Path

import pytest

from tests.faults.operations import Ingestion, Upload
from tests.faults.rounds import LONG, survive
from tests.faults.world import World
from tests.support.service_process import Service, until


@pytest.mark.timeout(LONG)
def test_kill_9_of_the_service(tmp_path: Path) -> None:
    """At random moments of two ingestions and an upload, which are under way together; no process is left behind."""
    (tmp_path / "releases").mkdir()
    service = Service(tmp_path, tmp_path / "releases", PORTLLM_JOB_CONCURRENCY="2").start()

    def strike() -> None:
        service.kill()
        until(lambda: not set(service.jobs()), 10)  # they end by themselves
        service.start()

    try:
        world = World(tmp_path, service)
        survive(world, "kill -9 of the service", [Ingestion(world, False), Ingestion(world, True), Upload(world, False)], strike)
        assert not service.jobs()
    finally:
        service.kill()

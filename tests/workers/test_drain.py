"""How a worker stops: it hands its jobs back at once, and announces its stop to those who read merged models on it."""

import re
import signal

import httpx

from tests.support.service_process import until
from tests.support.workers import Fleet

FOREVER = "3600"


def test_worker_that_listens_announces_its_stop_and_hands_jobs_back(fleet: Fleet) -> None:
    """/readyz says 503 with the part "draining" while it accepts, others know that it takes no jobs; a second signal ends it."""
    variables = {"PORTLLM_DRAIN_DELAY_SECONDS": FOREVER, "PORTLLM_DRAIN_SECONDS": FOREVER}
    with fleet.working(("--listen", "127.0.0.1:0"), **variables) as (worker,):
        url = re.search(r"at (http://\S+)", (worker.root / "stdout.txt").read_text())[1]
        until(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        worker.send(signal.SIGTERM)
        unready = until(lambda: (answer := httpx.get(f"{url}/readyz")).status_code == 503 and answer)
        assert (unready.json()["code"], list(unready.json()["data"]["parts"])) == ("server.unready", ["draining"])
        until(lambda: not fleet.rows("SELECT id FROM workers WHERE id = :id", id=worker.id))
        assert httpx.get(f"{url}/healthz").status_code == 200
        worker.send(signal.SIGTERM)
        assert worker.process.wait(30) == 128 + signal.SIGTERM

"""What workers do and do not: one job at once, only their class, cancel and retry from wherever it is asked."""

import json
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from app.core.arithmetic import best_device
from tests.support.registry import refused
from tests.support.service_process import invoke, run, until
from tests.support.sparse_models import large_release
from tests.support.workers import Fleet

HUGE = 200
LIVE = 'portllm_workers_live{class="cpu"} 2.0'


@pytest.fixture
def client(fleet: Fleet) -> Any:
    with fleet.client() as http:
        http.post("/families", json={"name": "work"})
        yield http


def register(fleet: Fleet, client: httpx.Client, name: str, layers: int = 1) -> str:
    """Registers a release; its job."""
    directory = large_release(fleet.root / "releases" / name, layers, shards=layers)
    answer = client.post("/families/work/releases", json={"name": name, "directory": str(directory)})
    return str(answer.raise_for_status().json()["job"])


def state(client: httpx.Client, job: str) -> str:
    return str(client.get(f"/jobs/{job}").raise_for_status().json()["state"])


def test_each_job_is_started_once(fleet: Fleet, client: httpx.Client) -> None:
    """Two workers, many short jobs: all done, none started twice; lists are paged and filtered."""
    jobs = [register(fleet, client, f"short{n}") for n in range(6)]
    with fleet.working(("--concurrency", "2"), ("--concurrency", "2")):
        until(lambda: all(state(client, job) == "done" for job in jobs), 120)
    events = client.get("/events", params={"limit": 500}).json()["items"]
    started = Counter(e["subject"] for e in events if e["kind"] == "job.started")
    assert {job: started[job] for job in jobs} == dict.fromkeys(jobs, 1)
    first = client.get("/jobs", params={"limit": 4, "kind": "ingest"}).json()
    assert [j["id"] for j in first["items"]] == jobs[:1:-1]
    rest = client.get("/jobs", params={"limit": 4, "kind": "ingest", "cursor": first["next_cursor"]}).json()
    assert ([j["id"] for j in rest["items"]], rest["next_cursor"]) == (jobs[1::-1], None)
    assert client.get("/jobs", params={"kind": "digest"}).json()["items"] == []
    assert len(client.get("/jobs", params={"state": "done"}).json()["items"]) == 6
    assert client.get("/jobs", params={"state": "failed"}).json()["items"] == []


def test_each_worker_has_a_concurrency_of_its_own(fleet: Fleet, client: httpx.Client) -> None:
    """Whatever was said by one before it or beside it."""
    with fleet.working(("--concurrency", "2")):
        pass
    jobs = [register(fleet, client, f"long{n}", HUGE) for n in range(3)]
    with fleet.working(()) as (one,), fleet.working(("--concurrency", "2")) as (two,):
        until(lambda: len(one.jobs()) + len(two.jobs()) == 3)
        assert (len(one.jobs()), len(two.jobs())) == (1, 2)
        for job in jobs:
            client.post(f"/jobs/{job}/cancel").raise_for_status()
        until(lambda: not one.jobs() and not two.jobs(), 15)


def test_cancel_reaches_every_worker(fleet: Fleet, client: httpx.Client) -> None:
    """Two workers with a long job each: both jobs are cancelled through the service, by the API and by the command line."""
    with fleet.working(("--listen", "127.0.0.1:0"), ()) as workers:
        jobs = [register(fleet, client, f"huge{n}", HUGE) for n in range(2)]
        until(lambda: all(worker.jobs() for worker in workers))
        doing = {j for w in client.get("/workers").json()["items"] if w["alive"] for j in w["jobs"]}
        assert doing == set(jobs)
        (url,) = (w["url"] for w in client.get("/workers").json()["items"] if w["id"] == workers[0].id)
        done = re.compile(r'portllm_worker_job_done_bytes{kind="ingest"} [1-9]')
        told = until(lambda: text if done.search(text := httpx.get(f"{url}/metrics").text) else "")
        assert 'portllm_worker_jobs{kind="ingest"} 1.0' in told
        assert f'portllm_worker_info{{class="cpu",device="{best_device().name}"' in told
        assert jobs[0] not in told
        table = invoke("workers", **fleet.variables(), COLUMNS="250").stdout
        assert all(text in table for text in (*doing, workers[0].id, workers[1].id, "yes"))
        client.post(f"/jobs/{jobs[0]}/cancel").raise_for_status()
        assert invoke("jobs", "cancel", jobs[1], **fleet.variables()).exit_code == 0
        until(lambda: not workers[0].jobs() and not workers[1].jobs(), 15)
        assert {state(client, job) for job in jobs} == {"cancelled"}
        assert all(worker.process.poll() is None for worker in workers)
        # The workers of the test before count until they have been silent for long.
        until(lambda: LIVE in httpx.get(f"{url}/metrics").text)


def test_retry(fleet: Fleet, client: httpx.Client) -> None:
    """A cancelled job is started once more as its subject's next attempt; one that is queued or done is not."""
    job = register(fleet, client, "again")
    refused(client.post(f"/jobs/{job}/retry"), 409, "state.move")
    client.post(f"/jobs/{job}/cancel").raise_for_status()
    answer = client.post(f"/jobs/{job}/retry")
    again = answer.json()["id"]
    assert (answer.status_code, answer.json()["state"], again) == (202, "queued", job[:-1] + "2")
    assert answer.headers["Location"] == f"/api/v1/jobs/{again}"
    refused(client.post(f"/jobs/{job}/retry"), 409, "state.move")
    with fleet.working(()):
        until(lambda: state(client, again) == "done")
    refused(client.post(f"/jobs/{again}/retry"), 409, "state.move")
    refused(client.post(f"/jobs/{job}/retry"), 409, "state.move")
    # A refusal is not retried by itself; by hand it is, and fails again for the same reason.
    bad = fleet.root / "releases" / "bad"
    bad.mkdir()
    (bad / "config.json").write_text("{}")
    with fleet.working(()):
        broken = client.post("/families/work/releases", json={"name": "bad", "directory": str(bad)}).json()["job"]
        until(lambda: state(client, broken) == "failed")
        shown = client.get(f"/jobs/{broken}").json()
        assert (shown["attempt"], shown["problem"]["code"]) == (1, "checkpoint.architecture")
        assert broken in [j["id"] for j in client.get("/jobs", params={"state": "failed"}).json()["items"]]
        assert broken not in [j["id"] for j in client.get("/jobs", params={"state": "done"}).json()["items"]]
        ended = invoke("jobs", "retry", broken, "--json", **fleet.variables())
        assert ended.exit_code == 0, ended.output
        second = json.loads(ended.stdout)["id"]
        until(lambda: state(client, second) == "failed")
    kinds = [e["kind"] for e in client.get("/events", params={"limit": 500}).json()["items"] if e["subject"] == broken]
    assert kinds == ["job.started", "job.failed"]


def test_only_their_class(fleet: Fleet, client: httpx.Client) -> None:
    """A worker of another class leaves the job alone, however long it waits; one of its class does it."""
    job = register(fleet, client, "class")
    with fleet.working(("--class", "gpu24", "--label", "rack=b2", "--label", "row=7")) as (other,):
        shown = next(w for w in client.get("/workers").json()["items"] if w["id"] == other.id)
        assert (shown["class_name"], shown["labels"], shown["alive"]) == ("gpu24", {"rack": "b2", "row": "7"}, True)
        assert shown["memory_bytes"] > 0
        assert shown["url"] is None
        with fleet.working(("--class", "cpu")):
            until(lambda: state(client, job) == "done")
            job = register(fleet, client, "class2")
            until(lambda: state(client, job) == "done")
        late = register(fleet, client, "class3")
        beats = fleet.rows("SELECT seen_at FROM workers WHERE id = :id", id=other.id)
        until(lambda: fleet.rows("SELECT seen_at FROM workers WHERE id = :id", id=other.id) > beats)
        assert state(client, late) == "queued"
        assert client.get(f"/jobs/{late}").json()["class_name"] == "cpu"
        client.post(f"/jobs/{late}/cancel").raise_for_status()


def test_merged_bytes_are_computed_where_accelerators_are(fleet: Fleet, client: httpx.Client, models: Path) -> None:
    """By workers of a class with accelerators while one lives; what waits for those that are gone is done by the others."""
    env = fleet.variables()
    with fleet.working(()) as (plain,):
        assert invoke("release", "add", "fast", "v1", "--from", models / "v1", "--wait", **env).exit_code == 0
        ports = []
        for name in ("one", "two", "three"):
            for words in (
                ("patch", "push", f"fast/{name}", models / "patch", "--family", "fast", "--trained-on", "v1"),
                ("port", f"fast/{name}", "--to", "v1"),
            ):
                assert invoke(*words, **env).exit_code == 0
            ports.append(client.get("/ports", params={"patch": f"fast/{name}"}).json()["items"][0]["id"])
        assert digest(client, ports[0])["class_name"] == "cpu"
        with fleet.working(("--class", "gpu24")) as (fast,):
            done = digest(client, ports[1])
            assert (done["class_name"], done["state"]) == ("gpu24", "done")
            assert torch.cuda.is_available() or "no accelerator was found here" in fast.errors()
            fast.send(signal.SIGSTOP)
            waiting = client.post(f"/ports/{ports[2]}/digest").json()["job"]
            assert client.get(f"/jobs/{waiting}").json()["class_name"] == "gpu24"
            until(lambda: state(client, waiting) == "done")
            assert client.get(f"/jobs/{waiting}").json()["class_name"] == "cpu"
            assert "done without" in plain.errors()
    files = [client.get(f"/ports/{port}/files").json()["files"] for port in ports]
    assert len({json.dumps(sorted((f["path"], f["sha256"]) for f in each)) for each in files}) == 1


def digest(client: httpx.Client, port: str) -> dict[str, Any]:
    """Has a merged model's digests computed; the job."""
    job = client.post(f"/ports/{port}/digest").json()["job"]
    until(lambda: state(client, job) == "done")
    return dict(client.get(f"/jobs/{job}").json())


def test_who_may_see_workers(fleet: Fleet, client: httpx.Client) -> None:
    """The machines of an installation are its admins' business."""
    made = client.post("/tokens", json={"owner": "acme", "scopes": ["read", "publish"]}).json()
    answer = client.get("/workers", headers={"Authorization": f"Bearer {made['token']}"})
    refused(answer, 403, "token.scope")


def test_starts_that_are_refused(fleet: Fleet) -> None:
    """Sentences, not traces: without a database, with options that say nothing."""
    nowhere = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    ended = run("worker", "--data", fleet.root / "refused", PORTLLM_DATABASE_URL=nowhere)
    assert ended.returncode == 1
    assert "[database.unreachable]" in ended.stderr
    assert "Traceback" not in ended.stderr
    for options, code in (
        (["--listen", "nowhere"], "worker.listen"), (["--url", "http://x"], "worker.url"), (["--label", "x"], "worker.label"),
        (["--class", "gpu24", "--concurrency", "2"], "worker.concurrency"),
    ):  # fmt: skip
        refusal = invoke("worker", *options)
        assert refusal.exit_code == 2
        assert f"[{code}]" in refusal.stderr, refusal.output

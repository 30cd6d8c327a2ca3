"""Requests a second on 100,000 patches and 10 releases in PostgreSQL, beside MLflow's model registry on the same server.

Two processes of each answer; client, service and database share the cores of this machine in both cases. Each request is
measured for a few seconds on kept connections, ours and its counterpart's in turn, several rounds; medians are shown.
"""

import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from sqlalchemy import NullPool, create_engine, text
from transformers.utils.logging import disable_progress_bar

from app.cli.client import Client
from app.cli.ingest import add_release, wait_release
from app.cli.upload import push_patch
from app.database_upgrade import upgrade
from app.http.deps import encode_cursor
from tests.benchmarks import mlflow_peer
from tests.benchmarks.api_rows import ALIAS, Filled, fill
from tests.benchmarks.harness import Options, print_machine, print_table, verdict
from tests.benchmarks.http_load import CONNECTIONS, Load, Request, load
from tests.support import postgres
from tests.support.models import Shelf
from tests.support.workers import Fleet

PROCESSES = 2
RELEASES = 10
REAL = 3  # patches made through the API; the others copy their rows
SIZE = 50
ASKED = 2_000  # different requests of a kind, chosen at random
AIM = 5.0
API = "/api/v1"


@dataclass(frozen=True)
class Case:
    """A request of ours, of whom, and its counterpart (None where the other has none)."""

    name: str
    token: str
    ours: list[Request]
    theirs: list[Request] | None = None
    aim: float | None = None


class Replicas(Fleet):
    """The service as a user starts it on two cores."""

    def command(self, port: int = 0) -> list[str]:
        return [*super().command(port), "--processes", str(PROCESSES)]


def run(options: Options) -> None:
    """Prints a table of ours and theirs, and one of where the processor time of ours went."""
    count, seconds = (2_000, 1.0) if options.small else (100_000, 4.0)
    print_machine()
    print(
        f"{CONNECTIONS} kept connections from one client process; client, {PROCESSES} processes of the service and PostgreSQL "
        f"share {os.cpu_count()} cores, for MLflow ({mlflow_peer.WORKERS} workers) as for us", flush=True,
    )  # fmt: skip
    root = options.work / "api_load"
    shutil.rmtree(root, ignore_errors=True)
    (root / "models").mkdir(parents=True)
    venv = mlflow_peer.environment(options.work)
    with ExitStack() as stack:
        database = stack.enter_context(postgres.own_server())
        url, other = database.create(), database.create()
        upgrade(url)
        service, token = _service(stack, root, url)
        filled = fill(url, count)
        print(f"{count} patches, {RELEASES} releases, {_count(url, 'ports')} ports; ", end="")
        peer = stack.enter_context(mlflow_peer.server(venv, other, root, _free_port()))
        mlflow_peer.fill(other, filled)
        print(f"MLflow {mlflow_peer.VERSION}: {_count(other, 'registered_models')} registered models", flush=True)
        ceiling = _ceiling(seconds)
        results: dict[tuple[str, str], list[tuple[Load, dict[str, float]]]] = {}
        cases = _cases(filled, service, token)
        processes = {"ours": service.pid, "theirs": peer.pid, "database": _postmaster(database)}
        _wait_until_idle(service.pid, peer.pid)
        for _ in range(1 if options.small else options.runs):
            for case in cases:
                measured = _with_cpu(processes, service.url, case.ours, seconds, case.token)
                results.setdefault((case.name, "ours"), []).append(measured)
                if case.theirs:
                    measured = _with_cpu(processes, peer.url, case.theirs, seconds)
                    results.setdefault((case.name, "theirs"), []).append(measured)
    _print(cases, results, ceiling)


def _service(stack: ExitStack, root: Path, url: str) -> tuple[Replicas, str]:
    """Starts it, and does the main job a few times: releases by a worker, patches and ports through the API."""
    disable_progress_bar()
    shelf = Shelf(root / "models")
    # What a machine can do is measured, also beyond what one owner may ask for by default.
    service = Replicas(root, url, root / "models", PORTLLM_RATE_LIMIT=os.environ.get("PORTLLM_RATE_LIMIT", ""))
    service.start()
    stack.callback(service.kill)
    client = Client(service.url, service.token)
    first = shelf.base()
    with service.working(()):
        for number in range(1, RELEASES + 1):
            directory = first if number == 1 else shelf.continued(first, seed=number, drift=0.01 * number)
            row = add_release(client, "bench", f"v{number}", directory, f"v{number - 1}" if number > 1 else None)
            if wait_release(client, row)["state"] != "ready":
                raise SystemExit(f"{directory} was rejected")
    with service.client() as caller:
        for number in range(REAL):
            push_patch(client, "acme", f"tone-{number}", shelf.patch(first, seed=number + 1), "bench", "v1")
            for release in range(2, RELEASES + 1):
                wish = {"patch": f"acme/tone-{number}", "release": f"v{release}"}
                port = caller.post("/ports", json=wish).raise_for_status().json()
                assert port["state"] == "ready", port
        caller.put("/families/bench/grants/*", json={}).raise_for_status()
        made = caller.post("/tokens", json={"owner": "team-000", "scopes": ["read", "publish"]}).raise_for_status().json()
    return service, made["token"]


def _cases(filled: list[Filled], service: Replicas, team: str) -> list[Case]:
    """What is measured; the same names in all rounds."""
    chosen = random.Random(1).choices(filled, k=ASKED)
    own = random.Random(2).choices([p for p in filled if p.owner == "team-000"], k=ASKED)
    admin = service.token
    middle = _cursor(service, len(filled) // 2)
    checks = [Request(f"{API}/ports/check", "POST", {"patch": p.full, "release": p.release, "version": ALIAS}) for p in own]
    resolved = [Request(f"{API}/ports?patch={p.full}&version={ALIAS}&release={p.release}") for p in chosen]
    return [
        Case(
            "get a patch", admin, [Request(f"{API}/patches/{p.full}") for p in chosen],
            [mlflow_peer.get(p) for p in chosen], AIM,
        ),
        Case(
            f"list {SIZE}, first page", admin, [Request(f"{API}/patches?limit={SIZE}")], [mlflow_peer.search(SIZE)], AIM
        ),
        Case(
            f"list {SIZE}, from the middle", admin, [Request(f"{API}/patches?limit={SIZE}&cursor={middle}")],
            [mlflow_peer.search(SIZE, len(filled) // 2)],
        ),
        Case(f"list {SIZE} of one team", team, [Request(f"{API}/patches?limit={SIZE}")]),
        Case("resolve: the port of patch@alias on a release", admin, resolved, [mlflow_peer.by_alias(p) for p in chosen]),
        Case("its merged files", admin, [Request(f"{API}/ports/{p.port}/files") for p in chosen]),
        Case("port check", team, checks),
    ]  # fmt: skip


def _cursor(service: Replicas, place: int) -> str:
    """The cursor that a client has when it has read `place` patches."""
    rows = service.rows("SELECT id FROM patches ORDER BY id DESC OFFSET :place LIMIT 1", place=place)
    return encode_cursor(rows[0][0])


def _with_cpu(
    processes: dict[str, int], url: str, requests: list[Request], seconds: float, token: str | None = None
) -> tuple[Load, dict[str, float]]:
    """A load, and processor milliseconds an answer took in the service and in the database, and in the client."""
    before = {name: _cpu(pid) for name, pid in processes.items()} | {"client": _children()}
    done = load(url, requests, seconds, token)
    after = {name: _cpu(pid) for name, pid in processes.items()} | {"client": _children()}
    return done, {name: 1000 * (after[name] - before[name]) / done.answers for name in before}


def _wait_until_idle(*pids: int, seconds: float = 120) -> None:
    """What starts is busy for a while (the service imports torch beside answering), and no user would measure that."""
    deadline, calm = time.monotonic() + seconds, 0
    while calm < 3 and time.monotonic() < deadline:
        before = sum(map(_cpu, pids))
        time.sleep(1)
        calm = calm + 1 if sum(map(_cpu, pids)) - before < 0.1 else 0


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _cpu(root: int) -> float:
    """Processor seconds of a process and of all below it, ended ones included."""
    parents: dict[int, list[int]] = {}
    spent: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
            spent[int(entry.name)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    total, left = 0.0, [root]
    while left:
        pid = left.pop()
        total += spent.get(pid, 0.0)
        left += parents.get(pid, [])
    return total


def _postmaster(server: postgres.OwnServer) -> int:
    return int((server.place / "postmaster.pid").read_text().split()[0])


def _ceiling(seconds: float) -> float:
    """How many answers a second this client gets from an application that does nothing, in one process of the same server."""
    with _trivial() as url:
        return load(url, [Request("/")], seconds).rate


@contextmanager
def _trivial() -> Iterator[str]:
    port = _free_port()
    command = [
        sys.executable, "-m", "uvicorn", "tests.benchmarks.http_load:trivial", "--port", str(port), "--http", "httptools",
        "--log-level", "warning", "--lifespan", "off", "--no-access-log",
    ]  # fmt: skip
    process = subprocess.Popen(command)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(200):
            try:
                httpx.get(url)
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def _count(url: str, table: str) -> int:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _print(cases: list[Case], results: dict[tuple[str, str], list[tuple[Load, dict[str, float]]]], ceiling: float) -> None:
    rows, spent, rates = [], [], {}
    rounds = len(results[cases[0].name, "ours"])
    for case in cases:
        for who in ("ours", "theirs"):
            if held := results.get((case.name, who)):
                rate, p50, p99 = (statistics.median(getattr(load, f) for load, _ in held) for f in ("rate", "p50", "p99"))
                name = case.name if who == "ours" else "   MLflow"
                rows.append((name, f"{rate:.0f}", f"{p50:.1f}", f"{p99:.1f}"))
                each = [statistics.median(cpu[n] for _, cpu in held) for n in (who, "database", "client")]
                spent.append((name, *(f"{ms:.2f}" for ms in each), held[-1][0].body_bytes))
                rates[case.name, who] = rate
    print_table(f"answers a second and latency, medians of {rounds} rounds", ("request", "req/s", "p50 ms", "p99 ms"), rows)
    print(f"the client alone reaches {ceiling:.0f} req/s on an application that does nothing in one process")
    columns = ("request", "service", "PostgreSQL", "client", "bytes")
    print_table("where processor time goes, ms an answer", columns, spent)
    for case in cases:
        if case.theirs:
            ratio = rates[case.name, "ours"] / rates[case.name, "theirs"]
            if case.aim:
                verdict(f"{case.name}: {ratio:.1f} times MLflow's rate (aim: {case.aim:.0f})", ratio >= case.aim)
            else:
                print(f"        {case.name}: {ratio:.1f} times MLflow's rate")

"""How processes of jobs begin: forked from one that imported what they use, or executed; in both ways the same process."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.jobs import launch
from app.jobs.fork_server import SERVER
from app.jobs.launch import Forks, Launched, LaunchError
from tests.live.models import large_release
from tests.live.service import job_processes, open_files, until

Start = Callable[..., Awaitable[Launched]]


@pytest.fixture
def forks(tmp_path: Path) -> Iterator[tuple[Forks, dict[str, str]]]:
    """One of the test's own, and what its jobs are given."""
    made = Forks()
    yield made, {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}
    made.close()


@pytest.fixture(params=["forked", "executed"])
def start(request: pytest.FixtureRequest, forks: tuple[Forks, dict[str, str]]) -> Start:
    """Starts a process in one of the two ways; modules to import, and more of an environment."""
    server, common = forks

    async def begin(*modules: str, **own: str) -> Launched:
        if request.param == "forked":
            return await server.fork(common, own, modules)
        return await launch.execute({**common, **own})

    return begin


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that takes a second to read, and no space on disk."""
    return large_release(tmp_path_factory.mktemp("long"), 6, shards=6)


@pytest.fixture
def order(long: Path, tmp_path: Path) -> bytes:
    """An ingestion of it."""
    sink = tmp_path / "sink"
    sink.mkdir()
    order = {
        "run": "x", "source": {"kind": "directory", "directory": str(long)}, "roots": [str(long)], "copy": False,
        "copied": False, "sink": {"kind": "directory", "directory": str(sink)},
    }  # fmt: skip
    return json.dumps({"kind": "ingest", "order": order}).encode() + b"\n"


async def begun(process: Launched, order: bytes) -> None:
    """Gives it its order and waits for the first report."""
    process.stdin.write(order)
    await process.stdin.drain()
    assert "progress" in json.loads(await process.stdout.readline())


async def ended(process: Launched, order: bytes) -> tuple[list[dict[str, Any]], str, int]:
    """Its lines, what it complained of, and how it ended."""
    process.stdin.write(order)
    await process.stdin.drain()
    lines = [json.loads(line) async for line in process.stdout]
    return lines, (await process.stderr.read()).decode(), await process.wait()


def test_a_job_that_ends(start: Start, order: bytes) -> None:
    async def run() -> None:
        lines, complaints, code = await ended(await start(), order)
        assert (lines[-1]["result"]["run"], complaints, code) == ("x", "", 0)

    asyncio.run(run())


def test_a_job_that_breaks(start: Start) -> None:
    """Python's own words, on standard error, and exit status 1."""

    async def run() -> None:
        lines, complaints, code = await ended(await start(), b'{"kind": "none"}\n')
        assert (lines, complaints.splitlines()[-1], code) == ([], "KeyError: 'none'", 1)

    asyncio.run(run())


def test_a_job_that_is_ended(start: Start, order: bytes) -> None:
    """By a signal, whose number is how it ended; a signal to what has ended does nothing."""

    async def run() -> None:
        for send, number in (("terminate", signal.SIGTERM), ("kill", signal.SIGKILL)):
            process = await start()
            await begun(process, order)
            assert process.returncode is None
            getattr(process, send)()
            assert (await process.wait(), process.returncode) == (-number, -number)

    asyncio.run(run())


def test_a_job_that_nobody_waits_for(start: Start, order: bytes) -> None:
    """Its standard input ends: so does it, with a status that says so."""

    async def run() -> None:
        process = await start()
        await begun(process, order)
        process.stdin.close()
        assert await process.wait() == 3

    asyncio.run(run())


def test_a_job_knows_only_what_it_is_given(forks: tuple[Forks, dict[str, str]], order: bytes, long: Path, tmp_path: Path) -> None:
    """Neither the keys nor the files of jobs that run beside it; in /proc nobody's keys can be read."""
    server, common = forks

    async def run() -> None:
        first = await server.fork(common, {"AWS_SECRET_ACCESS_KEY": "a-key"}, [])
        await begun(first, order)
        second = await server.fork(common, {}, [])
        await begun(second, order)
        assert set(job_processes(tmp_path)) == {first.pid, second.pid}
        (forking,) = job_processes(tmp_path, SERVER)
        for pid in (first.pid, second.pid, forking):
            assert b"a-key" not in Path(f"/proc/{pid}/environ").read_bytes()
            assert os.getsid(pid) == pid
        opened = [{name for name in open_files(pid) if not name.startswith(str(long))} for pid in (first.pid, second.pid)]
        assert [len(names) for names in opened] == [3, 3], opened
        assert not opened[0] & opened[1]
        for process in (first, second):
            process.kill()
            await process.wait()
        after = await server.fork(common, {}, ["json", "no.such.module"])
        after.stdin.write(b'{"kind": "none"}\n')
        assert await after.wait() == 1
        assert [link for link in open_files(forking) if link.startswith("pipe")] == [], "what it passed on it does not keep"

    asyncio.run(run())


def test_the_environment_of_a_job(forks: tuple[Forks, dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was given to one job is its own: S3's client reads its keys from there."""
    server, common = forks
    # The process that forks is this program with a module before ours, which tells what a job would read.
    (tmp_path / "told.py").write_text("import json, os\ndef do(order, reporter):\n    return dict(os.environ)\n")
    (tmp_path / "patched.py").write_text("import told\nfrom app.jobs import child\nchild.KINDS['environment'] = told.do\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    async def run() -> None:
        seen = []
        for own in ({"AWS_PROFILE": "one"}, {}):
            lines, _, _ = await ended(
                await server.fork(common, own, ["patched"]), b'{"kind": "environment", "order": {}}\n'
            )  # fmt: skip
            seen.append(lines[-1]["result"])
        assert seen == [{**common, "AWS_PROFILE": "one"}, common]

    asyncio.run(run())


def test_a_job_that_is_cancelled_before_it_began(
    forks: tuple[Forks, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While what it needs is imported: what is forked all the same ends at once, and nothing stays open."""
    server, common = forks
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(1)\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    async def run() -> None:
        process = await server.fork(common, {}, [])
        process.kill()
        await process.wait()
        before = len(open_files(os.getpid()))
        starting = asyncio.create_task(server.fork(common, {}, ["slow"]))
        await asyncio.sleep(0.3)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        after = await server.fork(common, {}, [])  # comes after it
        after.kill()
        await after.wait()
        deadline = time.monotonic() + 10
        while job_processes(tmp_path) or len(open_files(os.getpid())) > before:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)

    asyncio.run(run())


def test_the_process_that_forks_is_killed(
    forks: tuple[Forks, dict[str, str]], order: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that runs goes on to its result, or ends when that is asked for; the next job has another to be forked from."""
    server, common = forks
    monkeypatch.setattr(launch, "_FORKS", server)

    async def run() -> None:
        for name in ("other", "third"):
            (tmp_path / name).mkdir()
        going, stopped = [await server.fork(common, {}, []) for _ in range(2)]
        await begun(going, order)
        await begun(stopped, order.replace(b"/sink", b"/other"))
        (forking,) = job_processes(tmp_path, SERVER)
        os.kill(forking, signal.SIGKILL)
        lines = [json.loads(line) async for line in going.stdout]
        assert lines[-1]["result"]["run"] == "x"
        stopped.terminate()
        assert await stopped.wait() == -signal.SIGKILL, "nobody can say how it ended"
        _, _, code = await ended(await launch.launch(common, {}, []), order.replace(b"/sink", b"/third"))
        assert code == 0

    asyncio.run(run())
    server.close()
    until(lambda: not job_processes(tmp_path), 5)


def test_there_is_no_room_for_a_process(
    forks: tuple[Forks, dict[str, str]], order: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said, and those that run go on."""
    server, common = forks
    (tmp_path / "full.py").write_text("import os\ndef fork():\n    raise OSError(11, 'no room')\nos.fork = fork\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    async def run() -> None:
        going = await server.fork(common, {}, [])
        await begun(going, order)
        with pytest.raises(LaunchError, match="could not"):
            await server.fork(common, {}, ["full"])
        assert [json.loads(line) async for line in going.stdout][-1]["result"]
        assert await going.wait() == 0

    asyncio.run(run())


def test_the_process_that_forks_cannot_be_had(forks: tuple[Forks, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The job is told so; nothing stays open."""
    server, common = forks
    monkeypatch.setattr(launch, "_FORKS", server)
    monkeypatch.setattr("sys.executable", "/bin/false")
    before = len(open_files(os.getpid()))

    async def run() -> None:
        with pytest.raises(LaunchError, match="ended"):
            await launch.launch(common, {}, [])

    asyncio.run(run())
    server.close()
    assert len(open_files(os.getpid())) <= before


def test_a_system_that_cannot(monkeypatch: pytest.MonkeyPatch, order: bytes, tmp_path: Path) -> None:
    """Follow forks of another process: a program of its own is executed."""
    monkeypatch.delattr(os, "pidfd_open")
    launch.can_fork.cache_clear()
    try:

        async def run() -> None:
            _, _, code = await ended(await launch.launch({"TMPDIR": str(tmp_path)}, {"LANG": "C"}, []), order)
            assert code == 0
            assert not job_processes(tmp_path, SERVER)

        asyncio.run(run())
    finally:
        launch.can_fork.cache_clear()

"""How processes of jobs begin: forked from one that imported what they use, or executed; in both ways the same process."""

import asyncio
import errno
import gc
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.blobs.locations import DirectorySink
from app.jobs import spawn
from app.jobs.codec import encode
from app.jobs.fork_server import SERVER
from app.jobs.spawn import Forks, Launched, LaunchError
from app.services.catalog.ingestion import Ingestion
from app.services.catalog.orders import IngestOrder, RegisteredDirectory
from tests.support.service_process import PATIENCE, job_processes, open_files, until
from tests.support.sparse_models import large_release

Start = Callable[[], Awaitable[Launched]]
Given = tuple[Forks, dict[str, str]]


# A task that returns its environment.
ENVIRONMENT = """
import os
from dataclasses import dataclass

@dataclass(frozen=True)
class Nothing:
    pass

def run(order: Nothing, context):
    return dict(os.environ)
"""


@pytest.fixture
def forks(tmp_path: Path) -> Iterator[Given]:
    """One of the test's own, and what its jobs are given."""
    made = Forks()
    yield made, {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}
    made.close()


@pytest.fixture(params=["forked", "executed"])
def start(request: pytest.FixtureRequest, forks: Given) -> Start:
    """Starts a process in one of the two ways."""
    server, common = forks

    async def begin() -> Launched:
        return await (server.fork(common, {}, []) if request.param == "forked" else spawn.execute(common))

    return begin


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes a module that the process that forks can import."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)

    return write


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that takes a second to read, and no space on disk."""
    return large_release(tmp_path_factory.mktemp("long"), 6, shards=6)


@pytest.fixture
def order(long: Path, tmp_path: Path) -> bytes:
    """An ingestion of it."""
    sink = tmp_path / "sink"
    sink.mkdir()
    source = RegisteredDirectory(str(long), (str(long),))
    order = IngestOrder("x", source, DirectorySink(str(sink)), copy=False)
    return json.dumps({"task": Ingestion.task, "order": encode(order)}).encode() + b"\n"


async def eventually(what: Callable[[], bool]) -> None:
    """Waits until it is so: a process takes its name a moment after it is told of."""
    deadline = time.monotonic() + 10 * PATIENCE
    while not what():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


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


def memory(pid: int) -> bytes:
    """All that a process could write to."""
    found = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as held:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            places, rights, *_ = line.split()
            if rights.startswith("rw"):
                begin, end = (int(place, 16) for place in places.split("-"))
                held.seek(begin)
                found.append(held.read(end - begin))
    return b"".join(found)


def test_a_job_that_ends(start: Start, order: bytes) -> None:
    async def run() -> None:
        lines, complaints, code = await ended(await start(), order)
        assert (lines[-1]["result"]["type"], complaints, code) == ("IngestResult", "", 0)

    asyncio.run(run())


def test_a_job_that_breaks(start: Start) -> None:
    """Python's own words, on standard error, and exit status 1."""

    async def run() -> None:
        lines, complaints, code = await ended(await start(), b'{"task": "none"}\n')
        assert (lines, complaints.splitlines()[-1], code) == ([], "ModuleNotFoundError: No module named 'none'", 1)

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


def test_a_job_knows_only_what_it_is_given(forks: Given, order: bytes, long: Path, tmp_path: Path) -> None:
    """Neither the keys nor the files of jobs that run beside it; in /proc nobody's keys can be read."""
    server, common = forks

    async def run() -> None:
        first = await server.fork(common, {"AWS_SECRET_ACCESS_KEY": "-".join(("a", "key", "of", "one"))}, [])
        await begun(first, order)
        second = await server.fork(common, {}, [])
        await begun(second, order)
        for process in (first, second):  # they would have read all in a second, and be gone before all this was looked at
            os.kill(process.pid, signal.SIGSTOP)
        assert set(job_processes(tmp_path)) == {first.pid, second.pid}
        (forking,) = job_processes(tmp_path, SERVER)
        for pid in (first.pid, second.pid, forking):
            assert b"a-key-of-one" not in Path(f"/proc/{pid}/environ").read_bytes()
            assert os.getsid(pid) == pid
        assert [b"a-key-of-one" in memory(pid) for pid in (first.pid, second.pid, forking)] == [True, False, False]
        opened = [{name for name in open_files(pid) if not name.startswith(str(long))} for pid in (first.pid, second.pid)]
        assert [len(names) for names in opened] == [3, 3], opened
        assert not opened[0] & opened[1]
        for process in (first, second):
            process.kill()
            await process.wait()
        # Its own complaints; of no job's files does it keep any. Looked at while it lives: after the next job it ends.
        await eventually(lambda: len([link for link in open_files(forking) if link.startswith("pipe")]) == 1)
        after = await server.fork(common, {}, ["json", "no.such.module"])
        after.stdin.write(b'{"task": "none"}\n')
        assert await after.wait() == 1

    asyncio.run(run())


def test_the_environment_of_a_job(forks: Given, write_module: Callable[[str, str], None]) -> None:
    """What was given to one job is its own: S3's client reads its keys from there."""
    server, common = forks
    write_module("told", ENVIRONMENT)

    async def run() -> None:
        seen = []
        for own in ({"AWS_PROFILE": "one"}, {}):
            lines, _, _ = await ended(
                await server.fork(common, own, ["told"]), b'{"task": "told", "order": {"type": "Nothing"}}\n'
            )  # fmt: skip
            seen.append(lines[-1]["result"])
        assert seen == [{**common, "AWS_PROFILE": "one"}, common]

    asyncio.run(run())


def test_a_job_that_is_cancelled_before_it_began(forks: Given, tmp_path: Path, write_module: Callable[[str, str], None]) -> None:
    """While what it needs is imported: what is forked all the same ends at once, and nothing stays open."""
    server, common = forks
    write_module("slow", "import time\ntime.sleep(1)\n")

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
        await eventually(lambda: not job_processes(tmp_path) and len(open_files(os.getpid())) <= before)

    asyncio.run(run())


def test_the_process_that_forks_is_killed(forks: Given, order: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that runs goes on to its result, or ends when that is asked for; the next job has another to be forked from."""
    server, common = forks
    monkeypatch.setattr(spawn, "_FORKS", server)

    async def run() -> None:
        for name in ("other", "third"):
            (tmp_path / name).mkdir()
        going, stopped = [await server.fork(common, {}, []) for _ in range(2)]
        await begun(going, order)
        await begun(stopped, order.replace(b"/sink", b"/other"))
        (forking,) = job_processes(tmp_path, SERVER)
        os.kill(forking, signal.SIGKILL)
        lines = [json.loads(line) async for line in going.stdout]
        assert lines[-1]["result"]["manifest"]
        stopped.terminate()
        assert await stopped.wait() == spawn.UNKNOWN, "nobody can say how it ended"
        _, _, code = await ended(await spawn.launch(common, {}, []), order.replace(b"/sink", b"/third"))
        assert code == 0

    asyncio.run(run())
    server.close()
    until(lambda: not job_processes(tmp_path), 5)


def test_there_is_no_room_for_a_process(forks: Given, order: bytes, write_module: Callable[[str, str], None]) -> None:
    """It is said, and those that run go on."""
    server, common = forks
    write_module("full", "import os\ndef fork():\n    raise OSError(11, 'no room')\nos.fork = fork\n")

    async def run() -> None:
        going = await server.fork(common, {}, [])
        await begun(going, order)
        with pytest.raises(LaunchError, match="no room"):
            await server.fork(common, {}, ["full"])
        assert [json.loads(line) async for line in going.stdout][-1]["result"]
        assert await going.wait() == 0

    asyncio.run(run())


def test_the_process_that_forks_cannot_be_had(forks: Given, order: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job is executed; nothing stays open."""
    server, common = forks
    monkeypatch.setattr(spawn, "_FORKS", server)
    python = spawn._python
    monkeypatch.setattr(spawn, "_python", lambda module, *rest: ["/bin/false"] if rest else python(module))
    before = len(open_files(os.getpid()))

    async def run() -> None:
        _, _, code = await ended(await spawn.launch(common, {}, []), order)
        assert code == 0

    asyncio.run(run())
    server.close()
    gc.collect()
    until(lambda: len(open_files(os.getpid())) <= before, 5)


def test_the_process_that_forks_does_not_answer(
    forks: Given, order: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs can be ended all the same; the next job is executed, and the one after it is forked again."""
    server, common = forks
    monkeypatch.setattr(spawn, "_FORKS", server)
    monkeypatch.setattr(spawn, "START_SECONDS", 1.0)
    monkeypatch.setattr(spawn, "TOLD_SECONDS", 0.5)

    async def run() -> None:
        going = await server.fork(common, {}, [])
        await begun(going, order)
        (forking,) = job_processes(tmp_path, SERVER)
        os.kill(forking, signal.SIGSTOP)
        going.kill()
        assert await going.wait() == spawn.UNKNOWN
        executed = await spawn.launch(common, {}, [])
        assert not job_processes(tmp_path), "no fork of the one that stopped"
        forked = await spawn.launch(common, {}, [])
        await eventually(lambda: job_processes(tmp_path) == [forked.pid])
        for process in (executed, forked):
            process.kill()
            assert await process.wait() == -signal.SIGKILL

    asyncio.run(run())


def test_an_import_that_fails_once(forks: Given, order: bytes, tmp_path: Path, write_module: Callable[[str, str], None]) -> None:
    """It is that job's trouble: the next is forked from another process; what ran before tells how it ended."""
    server, common = forks
    write_module("torn", "raise OSError(24, 'Too many open files')\n")

    async def run() -> None:
        before = await server.fork(common, {}, [])
        await begun(before, order)
        (first,) = job_processes(tmp_path, SERVER)
        torn = await server.fork(common, {}, ["torn"])
        after = await server.fork(common, {}, [])
        await eventually(lambda: len(job_processes(tmp_path, SERVER)) == 2)
        for process in (torn, after):
            process.stdin.write(b'{"task": "none"}\n')
            assert await process.wait() == 1
        before.terminate()
        assert await before.wait() == -signal.SIGTERM
        await eventually(lambda: first not in job_processes(tmp_path, SERVER))

    asyncio.run(run())


def test_a_wait_that_is_cancelled(start: Start, order: bytes) -> None:
    """Nothing of it stays open, and it can be waited for again, by two at once."""

    async def run() -> None:
        process = await start()
        await begun(process, order)
        held = len(open_files(os.getpid()))
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(process.wait(), 0.05)
        assert len(open_files(os.getpid())) == held
        process.terminate()
        assert await asyncio.gather(process.wait(), process.wait()) == [-signal.SIGTERM] * 2

    asyncio.run(run())


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EMFILE])
def test_whether_a_system_can(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Follow forks of another process: what it says once it says always, unless there was no room for an answer."""

    def refuse(pid: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    spawn.can_fork.cache_clear()
    try:
        assert spawn.can_fork() == (number == errno.EMFILE)
    finally:
        spawn.can_fork.cache_clear()


def test_a_system_that_cannot(monkeypatch: pytest.MonkeyPatch, order: bytes, tmp_path: Path) -> None:
    """A program of its own is executed."""
    monkeypatch.setattr(spawn, "can_fork", lambda: False)

    async def run() -> None:
        _, _, code = await ended(await spawn.launch({"TMPDIR": str(tmp_path)}, {"LANG": "C"}, []), order)
        assert code == 0
        assert not job_processes(tmp_path, SERVER)

    asyncio.run(run())

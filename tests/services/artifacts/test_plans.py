"""Plans of merged models: made once, however many ask for the same one first."""

import threading
from concurrent.futures import ThreadPoolExecutor

from app.core.recipe import Recipe
from app.domain.principal import Principal
from app.services.ports import ports
from app.services.tools import Planned
from tests.support.connections import watched
from tests.support.fixtures import World

READERS = 8
ADMIN = Principal("admin", frozenset({"admin"}), "test")


def test_concurrent_first_readers_of_a_plan_compute_it_once(world: World) -> None:
    runtime, barrier = world.service.runtime, threading.Barrier(READERS)
    with runtime.read() as uow:
        port = ports.get(uow, ADMIN, world.port["id"])
    with watched(runtime) as blobs, ThreadPoolExecutor(READERS) as pool:

        def plan() -> Planned:
            barrier.wait(20)
            return runtime.tools.artifacts.planned(port.release, port.version, Recipe.from_dict(port.recipe))

        plans = [answer.result(60) for answer in [pool.submit(plan) for _ in range(READERS)]]
    assert all(one is plans[0] for one in plans)
    assert [operation for operation, _ in blobs.seen].count("open") == 2, "the manifest and the patch"

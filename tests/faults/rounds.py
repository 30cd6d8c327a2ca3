"""How the fault tests choose their moments."""

import itertools
import os
import random
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults import tally
from tests.faults.operations import Operation
from tests.faults.world import World

ROUNDS = int(os.environ.get("PORTLLM_SOAK_ROUNDS", "3"))
# Of the moments; a failing round says it, and PORTLLM_SOAK_SEED chooses it.
SEED = os.environ.get("PORTLLM_SOAK_SEED") or str(time.time_ns())
_labels = itertools.count(1)  # worlds are shared: every name is used once
LONG = 60 * ROUNDS + 240


def moments(seconds: float, seed: int) -> Iterator[float]:
    """A random moment for each round, in random order, spread over an operation that takes `seconds` undisturbed.

    The operation is cut into as many equal parts as there are rounds; every part is hit once, somewhere. The last part ends
    a little after the operation, so that its very end is hit too.
    """
    chooser = random.Random(f"{seed} {SEED}")
    parts = list(range(ROUNDS))
    chooser.shuffle(parts)
    return ((part + chooser.random()) / ROUNDS * seconds * 1.05 for part in parts)


def survive(world: World, fault: str, operations: Sequence[Operation], strike: Callable[[], None]) -> None:
    """Lets a fault happen again and again while operations run; after each, all come to their end and all is well.

    The operations are under way together, each at a random moment of its own when the fault happens.

    Args:
        world: what it happens to.
        fault: its name.
        operations: each is begun anew for every round.
        strike: the fault, and whatever brings the world back.
    """
    names = [operation.name for operation in operations]
    with ThreadPoolExecutor(len(operations)) as pool:
        label = f"undisturbed{next(_labels)}"
        seconds = list(pool.map(lambda operation: _undisturbed(operation, label), operations))
    ages = [moments(taken, seed) for seed, taken in enumerate(seconds)]

    def one(title: str) -> None:
        with tally.one_round(fault, names, world.backend):
            now = [next(each) for each in ages]
            _begin(operations, now, f"round{next(_labels)}")
            met = [operation.status() for operation in operations]
            strike()
            found = [operation.finish() for operation in operations]
            world.check(quick=True)  # every byte is read at the end
        for operation, moment, taken, before, after in zip(operations, now, seconds, met, found, strict=True):
            print(f"{title}: {operation.name} after {moment:.2f} of {taken:.2f} s, {before}; {after}")

    each_round(world, fault, one)
    world.sweep(fault)


def each_round(world: World, fault: str, one: Callable[[str], None]) -> None:
    """Runs all rounds. One that fails is told, the world is mended, and the next begins; the test fails after the last.

    Args:
        one: a round, told its title.
    """
    failed = []
    for number in range(1, ROUNDS + 1):
        title = f"{fault} {number}/{ROUNDS}"
        try:
            one(title)
        except Exception:  # noqa: BLE001  whatever it is, a soak goes on and says it
            print(f"{title} failed, PORTLLM_SOAK_SEED={SEED}:\n{traceback.format_exc()}")
            failed.append(number)
            world.mend()
    if failed:
        pytest.fail(f"{fault}: rounds {failed} of {ROUNDS} failed, PORTLLM_SOAK_SEED={SEED}; see above")


def _undisturbed(operation: Operation, label: str) -> float:
    """How long it takes, in seconds."""
    operation.prepare(label)
    began = time.monotonic()
    operation.begin()
    operation.finish()
    return time.monotonic() - began


def _begin(operations: Sequence[Operation], ages: Sequence[float], name: str) -> None:
    """Begins each so that it has reached its age when this returns."""
    for operation in operations:
        operation.prepare(name)
    began, longest = time.monotonic(), max(ages)
    for age, operation in sorted(zip(ages, operations, strict=True), key=lambda pair: -pair[0]):
        time.sleep(max(0.0, began + longest - age - time.monotonic()))  # the moment is what is under test
        operation.begin()
    time.sleep(max(0.0, began + longest - time.monotonic()))

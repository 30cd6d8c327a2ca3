"""How the fault tests choose their moments."""

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.faults import tally
from tests.faults.operations import Operation
from tests.faults.world import World

ROUNDS = int(os.environ.get("PORTLLM_SOAK_ROUNDS", "3"))
_labels = itertools.count(1)  # worlds are shared: every name is used once
LONG = 60 * ROUNDS + 240


def moments(seconds: float, seed: int) -> Iterator[float]:
    """A random moment for each round, in random order, spread over an operation that takes `seconds` undisturbed.

    The operation is cut into as many equal parts as there are rounds; every part is hit once, somewhere. The last part ends
    a little after the operation, so that its very end is hit too.
    """
    chooser = random.Random(f"{seed} {os.environ.get('PORTLLM_SOAK_SEED', time.time_ns())}")
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
    for number in range(1, ROUNDS + 1):
        with tally.one_round(fault, names, world.backend):
            now = [next(each) for each in ages]
            _begin(operations, now, f"round{next(_labels)}")
            met = [operation.status() for operation in operations]
            strike()
            found = [operation.finish() for operation in operations]
            world.check()
        for operation, moment, taken, before, after in zip(operations, now, seconds, met, found, strict=True):
            print(f"{fault} {number}/{ROUNDS}: {operation.name} after {moment:.2f} of {taken:.2f} s, {before}; {after}")
    world.sweep(fault, names)


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

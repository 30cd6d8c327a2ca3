"""Python's garbage collector, while nothing becomes garbage."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_off() -> Iterator[None]:
    """Keeps the collector off within the block.

    Imports make hundreds of thousands of objects that stay: the collector would look at them again and again, and free none.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()

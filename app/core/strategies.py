"""Strategies: what is done to a patch's deltas before they are added to a base.

A strategy is one entry of `STRATEGIES`, by the name that recipes use; nothing else names it. The name is part of the recipe's
fingerprint. Whoever changes what a strategy computes raises `recipe.ARITHMETIC_VERSION`.
"""

from typing import Protocol

from app.core.delta import Delta


class Strategy(Protocol):
    """Turns deltas into deltas.

    Attributes:
        name: in recipes.
        summary: what it computes, as a sentence for people.
    """

    name: str
    summary: str

    def apply(self, deltas: tuple[Delta, ...]) -> tuple[Delta, ...]:
        """Returns the deltas that are added, made from headers alone; values are read when a delta is loaded."""


class Add:
    """Adds what the patch holds: the paper's W' + s*B*A (arXiv 2410.10870, equation 6)."""

    name = "add"
    summary = '"add" is W + s*B*A.'

    def apply(self, deltas: tuple[Delta, ...]) -> tuple[Delta, ...]:
        return deltas


STRATEGIES: dict[str, Strategy] = {strategy.name: strategy for strategy in (Add(),)}

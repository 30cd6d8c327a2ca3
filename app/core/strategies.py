"""Strategies: what is done to a patch's deltas before they are added to a base.

A strategy is one entry of `STRATEGIES`, under the name that recipes use; no other code refers to it. The name is part of the
recipe's fingerprint. A change of what a strategy computes requires a new `recipe.ARITHMETIC_VERSION`.
"""

from typing import Protocol

from app.core.delta import Delta


class Strategy(Protocol):
    """Transforms the deltas of a patch.

    Attributes:
        name: in recipes.
        summary: what it computes, as a sentence for messages.
    """

    name: str
    summary: str

    def apply(self, deltas: tuple[Delta, ...]) -> tuple[Delta, ...]:
        """Returns the deltas to add. Uses headers only; values are read when a delta is loaded."""


class Add:
    """Adds the patch unchanged: W' + s*B*A (arXiv 2410.10870, equation 6)."""

    name = "add"
    summary = '"add" is W + s*B*A.'

    def apply(self, deltas: tuple[Delta, ...]) -> tuple[Delta, ...]:
        return deltas


STRATEGIES: dict[str, Strategy] = {strategy.name: strategy for strategy in (Add(),)}

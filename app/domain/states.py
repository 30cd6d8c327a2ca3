"""States of everything that has them: one table of allowed moves, one function that moves."""

from typing import Literal

from app.domain.errors import DomainError

# What lists can be asked for; the table below is the same, and a test says so.
ReleaseState = Literal["ingesting", "ready", "rejected", "yanked"]
PortState = Literal["checking", "held", "ready", "refused", "retired", "purged"]

MOVES: dict[str, dict[str, frozenset[str]]] = {
    "release": {
        "ingesting": frozenset({"ready", "rejected"}),
        "rejected": frozenset({"ingesting"}),
        "ready": frozenset({"yanked"}),
        "yanked": frozenset(),
    },
    "version": {
        "draft": frozenset({"published", "discarded", "purged"}),
        "published": frozenset({"yanked", "purged"}),
        "yanked": frozenset({"purged"}),
        "discarded": frozenset({"purged"}),
        "purged": frozenset(),
    },
    "port": {
        "checking": frozenset({"ready", "refused", "held"}),
        "held": frozenset({"ready", "refused", "purged"}),
        "ready": frozenset({"retired", "purged"}),
        "refused": frozenset({"purged"}),
        "retired": frozenset({"purged"}),
        "purged": frozenset(),
    },
    "materialisation": {
        "queued": frozenset({"running", "failed", "cancelled"}),
        "running": frozenset({"done", "failed", "cancelled"}),
        "failed": frozenset({"queued"}),
        "cancelled": frozenset({"queued"}),
        "done": frozenset({"purged"}),
        "purged": frozenset(),
    },
    "import": {
        "queued": frozenset({"running", "refused", "cancelled"}),
        "running": frozenset({"imported", "present", "refused", "cancelled"}),
        "refused": frozenset({"queued"}),
        "cancelled": frozenset({"queued"}),
        "imported": frozenset(),
        "present": frozenset(),
    },
}


def move(noun: str, state: str, target: str) -> str:
    """Returns the target state.

    Raises:
        DomainError: state.move, when the table does not allow it.
    """
    if target not in MOVES[noun][state]:
        raise DomainError("state.move", noun=noun, state=state, target=target)
    return target

"""States: the table of moves against every pair, and the moves over HTTP that it forbids."""

import itertools
from typing import get_args

import pytest

from app.domain.errors import DomainError
from app.domain.states import MOVES, PortState, ReleaseState, move
from tests.support.fixtures import World
from tests.support.registry import refused

# Section 3 of the design, written out once more.
ALLOWED = {
    "release": {("ingesting", "ready"), ("ingesting", "rejected"), ("rejected", "ingesting"), ("ready", "yanked")},
    "version": {("draft", "published"), ("draft", "discarded"), ("published", "yanked"), ("draft", "purged"),
        ("discarded", "purged"), ("published", "purged"), ("yanked", "purged")},
    "port": {
        ("checking", "ready"), ("checking", "refused"), ("checking", "held"), ("held", "ready"), ("held", "refused"),
        ("ready", "retired"), ("held", "purged"), ("ready", "purged"), ("refused", "purged"), ("retired", "purged"),
    },
    "materialisation": {
        ("queued", "running"), ("queued", "failed"), ("queued", "cancelled"), ("running", "done"), ("running", "failed"),
        ("running", "cancelled"), ("failed", "queued"), ("cancelled", "queued"), ("done", "purged"),
    },
    "import": {
        ("queued", "running"), ("queued", "refused"), ("queued", "cancelled"), ("running", "imported"), ("running", "present"),
        ("running", "refused"), ("running", "cancelled"), ("refused", "queued"), ("cancelled", "queued"),
    },
}  # fmt: skip
STATES = {
    "release": {"ingesting", "ready", "rejected", "yanked"},
    "version": {"draft", "published", "discarded", "yanked", "purged"},
    "port": {"checking", "ready", "refused", "held", "retired", "purged"},
    "materialisation": {"queued", "running", "done", "failed", "cancelled", "purged"},
    "import": {"queued", "running", "imported", "present", "refused", "cancelled"},
}


def test_transition_table_has_every_state() -> None:
    """No noun and no state is missing or unknown."""
    assert {noun: set(table) for noun, table in MOVES.items()} == STATES


def test_lists_filter_by_every_state_and_refuse_unknown_ones(world: World) -> None:
    """A state that there is not would always be an empty list; the refusal names those that there are."""
    assert (set(get_args(PortState)), set(get_args(ReleaseState))) == (STATES["port"], STATES["release"])
    for path, noun in (("/ports", "port"), ("/families/llama/releases", "release")):
        for state in STATES[noun]:
            listed = world.admin.get(path, state=state).json()["items"]
            assert {row["state"] for row in listed} <= {state}
        for state in ("nonsense", "", "READY"):
            problem = refused(world.admin.get(path, state=state), 422, "request.invalid")
            assert all(repr(allowed) in problem["detail"] for allowed in STATES[noun]), problem


@pytest.mark.parametrize("noun", sorted(STATES))
def test_every_pair_of_states_is_allowed_or_refused_as_designed(noun: str) -> None:
    """A move is possible exactly where the design allows it; all others say what is wrong."""
    for state, target in itertools.product(STATES[noun], repeat=2):
        if (state, target) in ALLOWED[noun]:
            assert move(noun, state, target) == target
            continue
        with pytest.raises(DomainError) as caught:
            move(noun, state, target)
        assert caught.value.code == "state.move"
        assert caught.value.data == {"noun": noun, "state": state, "target": target}


def test_transition_to_an_unknown_state_is_refused() -> None:
    """A misspelt state is refused like any other."""
    with pytest.raises(DomainError):
        move("port", "ready", "redy")


def test_forbidden_transitions_over_http_are_refused(world: World) -> None:
    """A port that is ready cannot be approved; one that is retired cannot be retired again."""
    patch = world.patch()
    world.acme.publish(patch, world.models.patch)
    port = world.acme.port(patch, "v2")["id"]
    refused(world.acme.post(f"/ports/{port}/approve", {"reason": "again"}), 409, "state.move")
    assert world.acme.post(f"/ports/{port}/retire").json()["state"] == "retired"
    refused(world.acme.post(f"/ports/{port}/retire"), 409, "state.move")
    refused(world.acme.post(f"/ports/{port}/approve", {"reason": "again"}), 409, "state.move")

"""If-Match on every change of what can change: whoever read an older state is told, and changes nothing."""

from collections.abc import Callable

import pytest

from tests.support.fixtures import World
from tests.support.registry import refused, unique


def release(world: World) -> tuple[str, str, dict[str, str]]:
    name = unique("r-")
    world.service.release("llama", name, world.models.v2)
    return f"/families/llama/releases/{name}", "yank", {"reason": "x"}


def version(world: World) -> tuple[str, str, dict[str, str]]:
    patch = world.patch()
    world.acme.publish(patch, world.models.patch)
    return f"/patches/{patch}/versions/1", "yank", {"reason": "x"}


def port(world: World) -> tuple[str, str, dict[str, str]]:
    patch = world.patch()
    world.acme.publish(patch, world.models.patch)
    return f"/ports/{world.acme.port(patch, 'v1')['id']}", "retire", {}


def held_port(world: World) -> tuple[str, str, dict[str, str]]:
    patch = world.patch()
    world.acme.publish(patch, world.models.patch, trained_on="unknown")
    return f"/ports/{world.acme.port(patch, 'v1')['id']}", "approve", {"reason": "x"}


def doomed_version(world: World) -> tuple[str, str, dict[str, str]]:
    """Of an owner of its own: the same bytes are never taken again for it."""
    patch = world.admin.patch(unique("doomed"), "tone")
    world.admin.publish(patch, world.models.patch)
    return f"/patches/{patch}/versions/1", "purge", {"reason": "x"}


@pytest.mark.parametrize("make", [release, version, port, held_port, doomed_version])
def test_only_what_was_read(world: World, make: Callable[[World], tuple[str, str, dict[str, str]]]) -> None:
    path, action, body = make(world)
    before = world.admin.get(path)
    refused(world.admin.post(f"{path}/{action}", body, {"If-Match": '"999"'}), 412, "request.changed")
    assert world.admin.get(path).json() == before.json()
    done = world.admin.post(f"{path}/{action}", body, {"If-Match": before.headers["ETag"]})
    assert done.status_code == 200, done.text
    after = world.admin.get(path)
    assert after.json()["state"] == done.json()["state"] != before.json()["state"]
    assert after.headers["ETag"] != before.headers["ETag"]

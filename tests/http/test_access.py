"""Access: what a request costs, and when its transaction is committed."""

from collections.abc import Callable

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from app.domain.errors import DomainError
from tests.support.fixtures import World, on_sqlite
from tests.support.registry import Service, refused, unique
from tests.support.request_costs import Costs, counted

API = "/api/v1"


@pytest.mark.parametrize("path", [
    f"{API}/whoami", f"{API}/families/llama", f"{API}/patches/acme/tone", f"{API}/patches/acme/tone/versions/1",
    f"{API}/ports/{{port}}", f"{API}/patches?limit=3", "/api/whoami-v2", "/api/models/acme/tone/auth-check",
])  # fmt: skip
def test_authenticated_read_costs_one_transaction_and_one_thread_hop(world: World, path: str) -> None:
    with counted(world.service.runtime) as costs:
        answer = world.reader("GET", path.format(port=world.port["id"]), whole=True)
    assert answer.status_code == 200, answer.text
    assert costs == Costs(transactions=1, hops=1)


@on_sqlite  # on PostgreSQL, live workers are looked up once a second besides
@pytest.mark.parametrize("path", [f"{API}/ports/{{port}}/files/{{shard}}", "/acme/tone.merged/resolve/v2/{shard}"])
def test_read_of_a_piece_of_a_merged_file_costs_one_transaction_and_one_thread_hop(world: World, path: str) -> None:
    files = world.reader.get(f"/ports/{world.port['id']}/files").json()["files"]
    shard = next(file["path"] for file in files if file["computed"])
    address = path.format(port=world.port["id"], shard=shard)
    world.reader("GET", address, whole=True)  # plans it
    with counted(world.service.runtime) as costs:
        answer = world.reader("GET", address, whole=True, headers={"Range": "bytes=100-299"})
    assert answer.status_code == 206, answer.text
    assert len(answer.content) == 200
    assert costs == Costs(transactions=1, hops=1)


def test_write_costs_a_transaction_for_the_token_and_one_for_the_change(world: World) -> None:
    """The token is looked up before the body is read, and not again."""
    with counted(world.service.runtime) as costs:
        answer = world.acme("PUT", "/patches/acme/tone/aliases/prod", json={"version": "1"})
    assert answer.status_code == 200, answer.text
    assert costs == Costs(transactions=2, hops=2)


def test_write_whose_commit_fails_is_answered_with_the_error(fresh: Callable[..., Service]) -> None:
    """The answer is sent after the commit: nobody is told that something was written which was not."""
    service, name = fresh(), unique("upstream")

    def fail(_: Session) -> None:
        raise DomainError("server.storage_full")

    with service.runtime.write() as uow:
        sessions = type(uow.session)
    event.listen(sessions, "before_commit", fail)
    try:
        answer = service.admin("PUT", f"/upstreams/{name}", json={"endpoint": "https://hub.example"})
    finally:
        event.remove(sessions, "before_commit", fail)
    refused(answer, 507, "server.storage_full")
    refused(service.admin.get(f"/upstreams/{name}"), 404, "upstream.unknown")

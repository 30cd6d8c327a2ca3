"""Processes of one installation with different secret keys notice each other; a key that is being replaced alarms nobody."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from app.db import heartbeats
from app.db.key_holders import KeyHolder
from app.domain.errors import DomainError
from app.services.access.key_agreement import KeyAgreement, Role
from app.services.operations.readiness import Readiness
from tests.support.fixtures import on_postgresql
from tests.support.registry import Service, refused, unique

OLD, NEW, OTHER = ("o" * 32, "n" * 32, "x" * 32)
# The states that a process passes through while OLD is replaced by NEW: the key that signs first.
ROTATION = ([OLD], [OLD, NEW], [NEW, OLD], [NEW])
Join = Callable[..., KeyAgreement]


@pytest.fixture
def join(fresh: Callable[..., Service]) -> Join:
    """Adds processes with keys of their own to an installation; the first argument is the role."""
    service = fresh()
    if service.runtime.keys:
        service.runtime.keys.leave()

    def joined(role: Role, *keys: str) -> KeyAgreement:
        ident = unique("host:1:")
        agreement = KeyAgreement(service.runtime.write, ident, role, [key.encode() for key in keys], 30.0)
        agreement.renew()
        return agreement

    return joined


def blocked(agreement: KeyAgreement) -> str:
    """The sentence of a process that must not be ready."""
    agreement.renew()
    with pytest.raises(DomainError) as raised:
        agreement.check()
    assert raised.value.code == "key.differs"
    return str(raised.value)


def note(agreement: KeyAgreement) -> str | None:
    agreement.renew()
    return agreement.check()


def test_services_with_the_same_key_are_ready(join: Join) -> None:
    services = [join("service", OLD) for _ in range(3)]
    assert [note(service) for service in services] == [None] * 3


def test_service_with_another_key_that_started_last_is_not_ready(join: Join) -> None:
    """The ones that were there go on and name it; when it has stopped, there is nothing to say."""
    first, second = join("service", OLD), join("service", OTHER)
    assert first.ident in blocked(second)
    assert second.ident in str(note(first))
    second.leave()
    second.renew()  # a heartbeat that was under way
    assert note(first) is None


def test_a_worker_with_another_key_is_named_by_services_and_not_ready(join: Join) -> None:
    """Also where it was there first: a service that is restarted beside it stays ready. Workers do not compare each other."""
    worker, service, colleague = join("worker", OTHER), join("service", OLD), join("worker", OLD)
    assert service.ident in blocked(worker)
    assert f"worker {worker.ident}" in str(note(service))
    assert note(colleague) is None


@pytest.mark.parametrize(("one", "two"), list(itertools.pairwise(ROTATION)))
@pytest.mark.parametrize("roles", [("service", "service"), ("service", "worker"), ("worker", "service")])
def test_key_rotation_by_steps_leaves_all_ready(join: Join, one: list[str], two: list[str], roles: tuple[Role, Role]) -> None:
    """Between two steps some processes are at the one, some at the next."""
    processes = [join(roles[0], *one), join(roles[1], *two)]
    assert [note(process) for process in processes] == [None, None]


def test_key_rotation_without_a_step_is_not_ready(join: Join) -> None:
    """The new key signs before all accept it: what the second signs is refused by the first."""
    first, second = join("service", OLD), join("service", NEW, OLD)
    assert first.ident in blocked(second)
    assert second.ident in str(note(first))


@contextmanager
def sharing(registries: Callable[..., Service], one: Service, key: str) -> Iterator[Service]:
    """Another service on the same database, with a key of its own."""
    with registries(database_url=one.settings.database_url, secret_key=key).running() as other:
        yield other


@on_postgresql
def test_readyz_names_the_service_with_another_key(registries: Callable[..., Service]) -> None:
    """The second service answers 503 and names the first, which stays ready and names the second until it has stopped."""
    with registries(secret_key=OLD, worker_beat_seconds=0.1).running() as one:
        with sharing(registries, one, OTHER) as two:
            with one.runtime.read() as uow:
                first, second = (row.id for row in heartbeats.processes(uow.session, KeyHolder, 30))
            problem = refused(two.client.get("/readyz"), 503, "server.unready")
            assert problem["data"]["parts"]["keys"]["reason"] == f"Another key than this process's is used by service {first}."
            one.runtime.keys.renew()  # type: ignore[union-attr]  not only when the next heartbeat is due
            one.runtime.readiness = Readiness(one.runtime.checks())
            ready = one.client.get("/readyz")
            assert ready.status_code == 200
            assert ready.json()["parts"]["keys"] == {
                "ok": True, "milliseconds": ready.json()["parts"]["keys"]["milliseconds"],
                "reason": f"another key is used by service {second}",
            }  # fmt: skip
            assert OLD not in problem["detail"] + ready.text
        with one.runtime.read() as uow:
            assert [row.id for row in heartbeats.processes(uow.session, KeyHolder, 30)] == [first]

"""Places for merged reads: one owner's models cannot have them all, and places come back however a read ends."""

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from app.domain.errors import DomainError
from app.services.places import Places
from tests.registry.conftest import Models
from tests.registry.service import Service, refused


def test_each_owner_has_its_share() -> None:
    """The refusal says whether the owner's places are taken or all of them."""
    places = Places(total=3, each=2)
    with ExitStack() as acme:
        for _ in range(2):
            acme.enter_context(places.take("acme"))
        with pytest.raises(DomainError) as error, places.take("acme"):
            pass
        assert (error.value.code, error.value.data["limit"], error.value.data["owner"]) == ("server.busy", 2, "acme")
        with places.take("other"):
            for owner in ("other", "third"):
                with pytest.raises(DomainError) as error, places.take(owner):
                    pass
                assert (error.value.data["limit"], "owner" in error.value.data) == (3, False)
        with pytest.raises(RuntimeError), places.take("other"):
            raise RuntimeError
    with ExitStack() as acme:
        for owner in ("acme", "acme", "other"):
            acme.enter_context(places.take(owner))
    assert not places._taken, "nobody is remembered"


def test_two_owners(fresh: Callable[..., Service], models: Models) -> None:
    """While one owner's models are read at all of its places, another's are read on."""
    service = fresh(merged_reads=3)  # of which half, and at least one, for each
    service.admin.family("llama")
    service.release("llama", "v1", models.v1)
    callers = {owner: service.caller(owner) for owner in ("acme", "other")}
    files = {}
    for owner, caller in callers.items():
        caller.publish(caller.patch(owner, "tone"), models.patch)
        files[owner] = f"/ports/{caller.port(f'{owner}/tone', 'v1')['id']}/files/config.json"
    with service.runtime.merged_read("acme"):
        answer = callers["acme"].get(files["acme"])
        problem = refused(answer, 503, "server.busy")
        assert int(answer.headers["Retry-After"]) > 0
        assert (problem["data"]["limit"], problem["data"]["owner"]) == (1, "acme")
        assert "acme" in problem["detail"]
        assert callers["other"].get(files["other"]).status_code == 200
    assert callers["acme"].get(files["acme"]).status_code == 200

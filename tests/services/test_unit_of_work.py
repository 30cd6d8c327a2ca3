"""The unit of work: what happens after its commit."""

import logging

import pytest

from tests.support.fixtures import World


def test_after_commit_that_fails_fails_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The transaction is committed: an error of one clean-up is logged, and the others still run."""
    ran = list[str]()

    def fail() -> None:
        ran.append("first")
        raise OSError("the store is away")

    with caplog.at_level(logging.ERROR), world.service.runtime.write() as uow:
        uow.after_commit(fail)
        uow.after_commit(lambda: ran.append("second"))
    assert ran == ["first", "second"]
    assert "the store is away" in caplog.text


def test_after_commit_does_not_run_when_the_transaction_is_rolled_back(world: World) -> None:
    ran = list[str]()

    def fail() -> None:
        with world.service.runtime.write() as uow:
            uow.after_commit(lambda: ran.append("never"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert ran == []

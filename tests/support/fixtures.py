"""Fixtures of the registry's tests: one registry with the main job done in it, and fresh ones on request.

What stands in the shared registry (`world`) is only read; tests that change something make names of their own.

Each test runs on SQLite and on PostgreSQL: a server of our own, or the one that PORTLLM_TEST_DATABASE_URL names.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from app.database_upgrade import upgrade
from tests.support import postgres
from tests.support.http_server import serving
from tests.support.models import Shelf
from tests.support.postgres import Postgres
from tests.support.registry import Caller, Service, unique
from tests.support.uploads import with_card

DATABASES = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Tiny models and patches, made once for each set of arguments; only to be read."""
    return Shelf(tmp_path_factory.mktemp("models"))


@dataclass(frozen=True)
class Models:
    """v2 continues v1; `alien` has their shapes and nothing else in common; `wide` has other shapes."""

    root: Path
    v1: Path
    v2: Path
    alien: Path
    wide: Path
    patch: Path


@pytest.fixture(scope="session")
def models(shelf: Shelf) -> Models:
    """The directories that the shared registry is made of."""
    v1 = shelf.base(max_shard_size="100KB", tokenizer=True)
    alien = shelf.base(seed=9, max_shard_size="100KB", tokenizer=True)
    wide = shelf.base(hidden_size=96, tokenizer=True)
    return Models(v1.parent, v1, shelf.continued(v1), alien, wide, shelf.patch(v1))


@dataclass
class World:
    """The shared registry: family llama with v1, v2, alien and wide; acme/tone, trained on v1, ported to v2."""

    service: Service
    models: Models
    admin: Caller
    acme: Caller
    reader: Caller
    rival: Caller
    port: dict[str, Any]

    def patch(self) -> str:
        """A new patch of acme's in family llama."""
        return self.acme.patch("acme", unique("patch"))


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """A PostgreSQL, started when the first test needs it."""
    with postgres.running() as started:
        yield started


@pytest.fixture(scope="session")
def migrated(server: Postgres) -> Callable[[], str]:
    """Makes databases on PostgreSQL with both schemas, ours and the engine's; their URLs."""
    empty = server.create()
    upgrade(empty)
    return lambda: server.create(empty)


@pytest.fixture(scope="session")
def database(request: pytest.FixtureRequest) -> str:
    """The kind of database: each test that asks a registry anything asks it on both."""
    return str(request.param)


# Marks of tests that are about one of the two, or about bytes and sentences of answers, where it makes no difference.
on_sqlite, on_postgresql = pytest.mark.database("sqlite"), pytest.mark.database("postgresql")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("database")
        metafunc.parametrize("database", mark.args if mark else DATABASES, indirect=True, scope="session")


class Shared:
    """What all tests on one kind of database share, made when the first asks for it.

    It outlives the change from one kind to the other, which comes with every file; fixtures with parameters would not.
    """

    def __init__(self, request: pytest.FixtureRequest, kind: str, stack: ExitStack) -> None:
        self._request, self._kind, self._stack = request, kind, stack
        self._place: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
        self.models: Models = request.getfixturevalue("models")

    def new_database(self, template: str = "") -> str:
        """Makes a database with both schemas, or a copy of one; its URL. On SQLite it is empty: the data directory has it."""
        if self._kind == "sqlite":
            return ""
        server: Postgres = self._request.getfixturevalue("server")
        migrated: Callable[[], str] = self._request.getfixturevalue("migrated")
        return server.create(template) if template else migrated()

    @cached_property
    def world(self) -> World:
        service, models = Service(self._place.mktemp("world"), self.models.root, database_url=self.new_database()), self.models
        self._stack.enter_context(service.running())
        service.admin.family("llama")
        for name, directory in (("v1", models.v1), ("v2", models.v2), ("alien", models.alien), ("wide", models.wide)):
            ready = service.release("llama", name, directory, parent="v1" if name == "v2" else None)
            assert ready["state"] == "ready", ready
        acme = service.caller("acme")
        acme.publish(acme.patch("acme", "tone"), models.patch)
        port = acme.port("acme/tone", "v2")
        assert port["state"] == "ready", port
        return World(service, models, service.admin, acme, service.caller("acme", "read"), service.caller("rival"), port)

    @cached_property
    def pristine(self) -> Service:
        """A registry that was started once and stopped, with both schemas migrated and nothing in it."""
        service = Service(self._place.mktemp("pristine"), self.models.root, database_url=self.new_database())
        with service.running():
            pass
        return service

    @cached_property
    def live(self) -> str:
        return self._stack.enter_context(serving(self.world.service))

    def registry(self, **settings: Any) -> Service:
        if "database_url" not in settings and self._kind != "sqlite":
            settings["database_url"] = self.new_database(self.pristine.settings.database_url)
        service = Service(self._place.mktemp("registry"), self.models.root, **settings)
        shutil.copytree(self.pristine.data, service.data)
        return service


@pytest.fixture(scope="session")
def both(request: pytest.FixtureRequest) -> Iterator[dict[str, Shared]]:
    with ExitStack() as stack:
        yield {kind: Shared(request, kind, stack) for kind in DATABASES}


@pytest.fixture(scope="session")
def shared(both: dict[str, Shared], database: str) -> Shared:
    return both[database]


@pytest.fixture(scope="session")
def world(shared: Shared) -> World:
    """A registry in which the main job was done; shared, so only read what it came with."""
    return shared.world


@pytest.fixture(scope="session")
def registries(shared: Shared) -> Callable[..., Service]:
    """Makes registries with settings of their own, on copies of a pristine one; not started yet."""
    return shared.registry


@pytest.fixture
def fresh(registries: Callable[..., Service]) -> Iterator[Callable[..., Service]]:
    """Makes registries of one test's own, started."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(registries(**settings).running())


@pytest.fixture
def begun(fresh: Callable[..., Service], models: Models) -> Service:
    """A registry of one test's own with release v1 of family llama, by reference."""
    service = fresh()
    service.admin.family("llama")
    service.release("llama", "v1", models.v1)
    return service


@pytest.fixture
def another(tmp_path: Path, models: Models) -> Callable[[], Path]:
    """Makes patch directories with the weights of `models.patch` and bytes that nobody published yet."""
    return lambda: with_card(models.patch, tmp_path / unique("patch"), unique("card "))


@pytest.fixture(scope="session")
def live(shared: Shared) -> str:
    """The shared registry behind a real HTTP server; its URL."""
    return shared.live

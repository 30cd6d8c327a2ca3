"""Fixtures of the registry's tests: one registry with the main job done in it, and fresh ones on request.

What stands in the shared registry (`world`) is only read; tests that change something make names of their own.

The database is SQLite, or PostgreSQL where PORTLLM_TEST_DATABASE=postgresql or PORTLLM_TEST_DATABASE_URL asks for it.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.runtime import upgrade
from tests.registry.server import serving
from tests.registry.service import Caller, Service, unique
from tests.registry.uploading import with_card
from tests.support import postgres
from tests.support.models import Shelf
from tests.support.postgres import Postgres


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
def new_database(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Makes databases with both schemas, or copies of one; their URLs. On SQLite it is empty: the data directory has it."""
    if os.environ.get("PORTLLM_TEST_DATABASE") != "postgresql" and not os.environ.get("PORTLLM_TEST_DATABASE_URL"):
        return lambda _: ""
    server: Postgres = request.getfixturevalue("server")
    migrated: Callable[[], str] = request.getfixturevalue("migrated")
    return lambda template: server.create(template) if template else migrated()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, models: Models, new_database: Callable[[str], str]) -> Iterator[World]:
    """A registry in which the main job was done; shared, so only read what it came with."""
    service = Service(tmp_path_factory.mktemp("world"), models.root, database_url=new_database(""))
    with service.running():
        service.admin.family("llama")
        for name, directory in (("v1", models.v1), ("v2", models.v2), ("alien", models.alien), ("wide", models.wide)):
            ready = service.release("llama", name, directory, parent="v1" if name == "v2" else None)
            assert ready["state"] == "ready", ready
        acme = service.caller("acme")
        acme.publish(acme.patch("acme", "tone"), models.patch)
        port = acme.port("acme/tone", "v2")
        assert port["state"] == "ready", port
        yield World(service, models, service.admin, acme, service.caller("acme", "read"), service.caller("rival"), port)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory, models: Models, new_database: Callable[[str], str]) -> Service:
    """A registry that was started once and stopped, with both schemas migrated and nothing in it."""
    service = Service(tmp_path_factory.mktemp("pristine"), models.root, database_url=new_database(""))
    with service.running():
        pass
    return service


@pytest.fixture(scope="session")
def registries(
    tmp_path_factory: pytest.TempPathFactory, models: Models, pristine: Service, new_database: Callable[[str], str]
) -> Callable[..., Service]:
    """Makes registries with settings of their own, on copies of a pristine one; not started yet."""

    def make(**settings: Any) -> Service:
        if "database_url" not in settings and not pristine.on_sqlite:
            settings["database_url"] = new_database(pristine.settings.database_url)
        service = Service(tmp_path_factory.mktemp("registry"), models.root, **settings)
        shutil.copytree(pristine.data, service.data)
        return service

    return make


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
def live(world: World) -> Iterator[str]:
    """The shared registry behind a real HTTP server; its URL."""
    with serving(world.service) as url:
        yield url

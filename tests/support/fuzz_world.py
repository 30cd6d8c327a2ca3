"""A registry with one of each thing in it, callers of every role, and what must hold of every answer whoever asks for what."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.cli.logs import TextLines
from app.http.problems import codes
from tests.support.files import factors, matrix, write_base, write_patch
from tests.support.hostile import MODULE
from tests.support.registry import Caller, Service, unique
from tests.support.uploads import announce, append

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PROBLEM = "application/problem+json"
KNOWN = frozenset(codes())
# The only errors of ours that an answer may be: the place is taken or full, and it says so.
UNAVAILABLE = {
    "server.busy": 503,
    "server.unready": 503,
    "database.busy": 503,
    "database.collision": 503,
    "server.storage_full": 507,
}


class Lines(logging.Handler):
    """Keeps what is logged, as it would be written."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(TextLines("%(message)s"))
        self.kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(self.format(record))


@dataclass
class World:
    """Family llama with release v1; acme/tone with version 1, ported to v1."""

    service: Service
    patch_dir: Path
    callers: dict[str, Caller]
    known: dict[str, list[str]]
    log: Lines = field(default_factory=Lines)

    @property
    def secrets(self) -> list[str]:
        """What no answer and no line of the log may hold."""
        tokens = [caller.token for caller in self.callers.values() if caller.token]
        key = self.service.runtime.tools.secret_keys[0].decode("latin-1")
        return [*tokens, key, str(self.service.data), self.service.settings.database_url, "Traceback (most recent call last)"]

    @property
    def acme(self) -> Caller:
        return self.callers["publisher"]

    def files(self) -> dict[str, bytes]:
        """The files of the good patch."""
        return {name: (self.patch_dir / name).read_bytes() for name in (CONFIG, WEIGHTS)}

    def check(self, answer: httpx.Response) -> str | None:
        """What holds of every answer; the code of a refusal."""
        self.keeps_secrets(str(answer.headers) + answer.content.decode("latin-1"))
        if answer.status_code < 400:
            return None
        if answer.request.method == "HEAD":
            assert answer.status_code < 500
            return None
        assert answer.headers["content-type"] == PROBLEM, (answer.request, answer.text[:500])
        problem = answer.json()
        assert set(problem) - {"error", "url", "name", "id"} == {"type", "title", "status", "detail", "code", "remedy", "data"}
        assert problem["code"] in KNOWN, problem
        assert problem["status"] == answer.status_code
        if answer.status_code >= 500:
            assert UNAVAILABLE.get(problem["code"]) == answer.status_code, (answer.request, problem)
        return str(problem["code"])

    def keeps_secrets(self, text: str) -> None:
        for secret in self.secrets:
            assert secret not in text, f"{secret!r} in {text[:2000]!r}"

    def quiet(self) -> None:
        """Whatever was logged since the last time holds no secret."""
        lines, self.log.kept = self.log.kept, []
        self.keeps_secrets("\n".join(lines))

    @contextmanager
    def listened_to(self) -> Iterator["World"]:
        """Keeps what is logged within the block, not what other tests log, and looks at it at the end."""
        logger = logging.getLogger()
        logger.addHandler(self.log)
        try:
            yield self
        finally:
            logger.removeHandler(self.log)
        self.quiet()

    def draft(self, patch: str, files: dict[str, bytes], **wrong: Any) -> httpx.Response:
        """Announces files; `wrong` replaces what is said of each."""
        listed = [announce(path, content) | wrong for path, content in files.items()]
        return self.acme.post(f"/patches/{patch}/versions", {"trained_on": "v1", "files": listed})

    def send(self, draft: dict[str, Any], files: dict[str, bytes]) -> None:
        for upload in draft["uploads"]:
            if rest := files[upload["path"]][upload["received"] :]:
                assert append(self.acme, upload["url"], upload["received"], rest).status_code == 204

    def new_patch(self) -> str:
        return self.acme.patch("acme", unique("fuzz"))


@contextmanager
def populated(root: Path) -> Iterator[World]:
    """A registry below a directory, with everything in it that routes are about."""
    write_base(root / "models/v1", {f"{MODULE}.weight": matrix((6, 8), "BF16", 1), "model.norm.weight": matrix((301,), "F32", 2)})
    patch_dir = write_patch(root / "models/patch", {MODULE: factors((6, 8), 2, "F32", 1)})
    service = Service(root, root / "models")
    with service.running():
        admin = service.admin
        admin.family("llama")
        release = service.release("llama", "v1", root / "models/v1")
        assert release["state"] == "ready", release
        callers = {
            "admin": admin, "operator": service.caller("acme", "read", "publish", "operate"), "publisher": service.caller("acme"),
            "reader": service.caller("acme", "read"), "rival": service.caller("rival"), "nobody": Caller(service.client, None),
        }  # fmt: skip
        world = World(service, patch_dir, callers, {})
        world.acme.publish(world.acme.patch("acme", "tone"), patch_dir)
        port = world.acme.port("acme/tone", "v1")
        draft = world.draft(world.new_patch(), world.files()).json()
        spare = admin.post("/tokens", {"owner": "acme", "scopes": ["read"]}).json()
        world.known |= {
            "family": ["llama"], "release": ["v1"], "owner": ["acme"], "patch": ["tone"], "number": ["1"], "alias": ["prod"],
            "upload": [draft["id"]], "port": [port["id"]], "reader": ["acme", "*"], "upstream": ["hf"], "token": [spare["id"]],
            "job": [release["job"]], "path": [WEIGHTS, CONFIG, "model.safetensors", "config.json"],
        }  # fmt: skip
        yield world


def registry(name: str) -> Any:
    """A fixture: a populated registry for the whole session, in a directory of that name."""

    @pytest.fixture(scope="session")
    def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
        with populated(tmp_path_factory.mktemp(name)) as found:
            yield found

    return made


def lent(fixture: str) -> Any:
    """A fixture: the registry that another one made, whose log is looked at after each test."""

    @pytest.fixture
    def found(request: pytest.FixtureRequest) -> Iterator[World]:
        made: World = request.getfixturevalue(fixture)
        with made.listened_to() as world:
            yield world

    return found

"""The LoRA resolver for vLLM, inside a stand-in of vLLM's interface, against a registry that serves."""

import asyncio
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from app.plugins import vllm_resolver
from app.plugins.adapter_cache import File, key_of
from tests.support import vllm_interface
from tests.support.fixtures import World, on_sqlite
from tests.support.http_server import serving
from tests.support.models import Shelf, load_tensors
from tests.support.registry import unique
from tests.support.vllm_interface import Engine

pytestmark = on_sqlite  # what an engine asks for over HTTP

BASE = "base/llama@v2"


@pytest.fixture(scope="module")
def url(world: World) -> Iterator[str]:
    with serving(world.service) as address:
        yield address


@contextmanager
def engine(monkeypatch: pytest.MonkeyPatch, model: str = "base/llama", **environment: object) -> Iterator[Engine]:
    """An engine with the plug-in, as it is in this environment."""
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    with vllm_interface.installed() as registry:
        vllm_resolver.register()
        yield Engine(model, registry)


Start = Callable[..., Engine]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, world: World, url: str) -> Iterator[Start]:
    """Starts engines on the registry, with an empty cache of their own."""
    for name in ("HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    usual = {
        "PORTLLM_URL": url, "PORTLLM_TOKEN": world.acme.token, "PORTLLM_VLLM_BASE": BASE,
        "PORTLLM_VLLM_CACHE": tmp_path / "cache",
    }  # fmt: skip
    with ExitStack() as stack:
        yield lambda model="base/llama", **own: stack.enter_context(engine(monkeypatch, model, **(usual | own)))


def ask(started: Engine, name: str) -> int:
    return asyncio.run(started.resolve(name))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Codes of the refusals in the log."""
    lines = [record.getMessage() for record in caplog.records if "is not resolved" in record.getMessage()]
    return [line.split("is not resolved: ")[1].split(":")[0] for line in lines]


@pytest.mark.parametrize("name", ["acme/tone", "acme/tone@1"])
def test_the_engine_loads_the_adapter_of_its_release(start: Start, world: World, name: str) -> None:
    """Its weights are those that were published; its settings name the base that is served."""
    started = start()
    assert ask(started, name) == 200
    original, _ = load_tensors(world.models.patch / "adapter_model.safetensors")
    loaded = started.tensors[name]
    assert set(loaded) == set(original)
    assert all(bool((loaded[key] == original[key]).all()) for key in original)
    directory = Path(started.loaded[name].lora_path)
    config = json.loads((directory / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("base/llama", "v2")
    assert sorted(path.name for path in directory.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_the_directory_is_named_by_what_is_in_it(start: Start, tmp_path: Path) -> None:
    """Two names of the same content share it; nothing else is left in the cache."""
    started = start()
    assert (ask(started, "acme/tone"), ask(started, "acme/tone@1")) == (200, 200)
    (directory,) = {Path(request.lora_path) for request in started.loaded.values()}
    files = [
        File(path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()) for path in directory.iterdir()
    ]  # fmt: skip
    assert directory.name == key_of(files)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == sorted([directory.name, "locks"])


@pytest.mark.parametrize(
    "name",
    [
        "../outside/evil", "/etc/passwd", "acme/../tone", "acme/tone/x", "acme", "acme/", "/tone", "acme/tone@", "acme/tone@0",
        "acme/tone@main", "acme/tone@1@v2", "acme/tone@1/..", "acme/tone@01", "ACME/tone", "acme/to ne", "acme/tone\n",
        "acme//tone",
        "acme/tone.merged", "acme/tone?x=1", "acme/%2e%2e", "acme/--x", "a" * 200 + "/b", "", "acme/tone\x00", "acme/töne",
        "~/adapter", "acme\\tone",
    ],
)  # fmt: skip
def test_what_is_no_name_is_asked_of_nobody(start: Start, caplog: pytest.LogCaptureFixture, tmp_path: Path, name: str) -> None:
    """vLLM passes on whatever a client sends as `model`: nothing of it becomes a path or a request."""
    caplog.set_level(logging.INFO, "vllm.portllm_resolver")
    started = start(PORTLLM_URL="http://127.0.0.1:9")  # where it would be unreachable
    assert ask(started, name) == 404
    assert said(caplog) == ["resolver.name"]
    assert not (tmp_path / "cache").exists()


def test_another_release_is_another_adapter(start: Start, world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A patch without a ready port on the release that is served is not handed out."""
    bare = unique("bare")
    assert world.service.release("llama", bare, world.models.v2)["state"] == "ready"
    started = start(PORTLLM_VLLM_BASE=f"base/llama@{bare}")
    assert ask(started, "acme/tone") == 404
    assert ask(start(PORTLLM_VLLM_BASE="base/llama@v2"), "acme/tone@7") == 404
    assert ask(start(), "acme/nothing") == 404
    assert said(caplog) == ["port.none", "version.unknown", "patch.unknown"]


def test_a_base_under_another_name_and_one_that_is_not_the_one(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """A directory or a name of the vendor's is what the variable says; another base of the registry is refused."""
    assert ask(start("/models/llama-v2"), "acme/tone") == 200
    assert ask(start("base/gemma"), "acme/tone") == 404
    assert said(caplog) == ["resolver.base"]


def test_what_vllm_cannot_serve_is_not_handed_out(
    start: Start, world: World, another: Callable[[], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """A retired port is none; of a version that is held there is none either."""
    name = world.patch()
    world.acme.publish(name, another())
    port = world.acme.port(name, "v2")["id"]
    started = start()
    assert world.acme.post(f"/ports/{port}/retire").status_code == 200
    assert ask(started, name) == 404
    assert said(caplog) == ["port.none"]


def test_a_rank_that_vllm_cannot_have_is_said_by_its_code(
    start: Start, world: World, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    """serving.json decides, before a byte is fetched."""
    name = world.patch()
    directory = shelf.patch(world.models.v1, r=600, lora_alpha=600, strength=0.001, target_modules=["q_proj"], seed=5)
    world.acme.publish(name, directory)
    assert world.acme.port(name, "v2")["state"] == "ready"
    assert ask(start(), name) == 404
    assert said(caplog) == ["serving.rank"]


def test_adapter_of_another_owner_is_not_found(start: Start, world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The token decides what can be served; a wrong one gets nothing."""
    assert ask(start(PORTLLM_TOKEN=world.rival.token), "acme/tone") == 404
    assert ask(start(PORTLLM_TOKEN="plt_wrong"), "acme/tone") == 404
    assert said(caplog) == ["patch.unknown", "token.missing"]


def test_what_is_cached_is_verified_and_mended(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Bytes that changed on the disk are fetched again, in place: an engine may know the directory."""
    first, again = start(), start()
    assert ask(first, "acme/tone") == 200
    weights = Path(first.loaded["acme/tone"].lora_path) / "adapter_model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert ask(again, "acme/tone") == 200
    assert again.loaded["acme/tone"].lora_path == first.loaded["acme/tone"].lora_path
    assert weights.read_bytes() == good


def test_what_is_cached_is_not_fetched_again(start: Start, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the two questions are asked."""
    assert ask(start(), "acme/tone") == 200
    monkeypatch.setattr("app.plugins.adapter_source.Registry.chunks", lambda *_: pytest.fail("fetched again"))
    assert ask(start(), "acme/tone@1") == 200


def test_a_cache_that_is_too_small_refuses(start: Start, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    assert ask(start(PORTLLM_VLLM_CACHE_BYTES=1000), "acme/tone") == 404
    assert said(caplog) == ["resolver.too_large"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["locks"]


def test_a_cache_that_cannot_be_written_is_no_error_of_the_client(
    start: Start, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert ask(start(PORTLLM_VLLM_CACHE=tmp_path / "file" / "cache"), "acme/tone") == 404
    assert said(caplog) == ["resolver.cache"]


def test_the_next_resolver_is_asked(start: Start) -> None:
    """None, not an exception: what this registry does not have another may."""
    asked = list[tuple[str, str]]()

    class Other(vllm_interface.LoRAResolver):
        async def resolve_lora(self, base_model_name: str, lora_name: str) -> None:
            asked.append((base_model_name, lora_name))

    started = start(PORTLLM_URL="http://127.0.0.1:9")
    started.registry.register_resolver("other", Other())
    assert ask(started, "acme/tone") == 404
    assert asked == [("base/llama", "acme/tone")]


# -- a registry that is not one


class Impostor:
    """Answers as it is told: `answers` by path; everything that came is in `asked`."""

    def __init__(self, answers: dict[str, tuple[int, bytes]], pause: float = 0) -> None:
        self.answers, self.pause, self.asked = answers, pause, list[tuple[str, str | None]]()

    @contextmanager
    def serving(self) -> Iterator[str]:
        impostor = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                impostor.asked.append((path, self.headers.get("Authorization")))
                time.sleep(impostor.pause)
                found = impostor.answers.get(path, (404, b"{}"))
                status, body = found if isinstance(found, tuple) else found.pop(0)
                self.send_response(status)
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.end_headers()
                with suppress(ConnectionError):
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()


COMMIT, PORT = "c" * 40, "prt_0123"
CONFIG = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "base/llama", "revision": "v2"}).encode()
WEIGHTS = b"weights"
PLAIN = {"strategy": "add", "dtype": None, "tokenizer": "release"}


def file(path: str, content: bytes, **changes: Any) -> dict[str, Any]:
    return {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest(), **changes}


def answers(adapter: dict[str, Any] | None = None, config: bytes = CONFIG, **changes: Any) -> dict[str, Any]:
    """What a registry would say, with changes to its serving.json."""
    document = {
        "state": "ready", "patch": "acme/tone", "version": 1, "family": "llama", "release": "v2",
        "options": [{"name": "vllm-adapter", "servable": True, "reasons": []}],
        "adapter": {
            "repository": "acme/tone", "commit": COMMIT,
            "files": [file("adapter_config.json", config), file("adapter_model.safetensors", WEIGHTS)],
        } | (adapter or {}),
    } | changes  # fmt: skip
    return {
        "/api/v1/ports": (200, json.dumps({"items": [{"id": PORT, "recipe": PLAIN}]}).encode()),
        f"/api/v1/ports/{PORT}/serving.json": (200, json.dumps(document).encode()),
        f"/acme/tone/resolve/{COMMIT}/adapter_config.json": (200, config),
        f"/acme/tone/resolve/{COMMIT}/adapter_model.safetensors": (200, WEIGHTS),
    }


WEIGHTS_PATH = f"/acme/tone/resolve/{COMMIT}/adapter_model.safetensors"
EVIL = [file("adapter_config.json", CONFIG), file("../../evil.safetensors", WEIGHTS)]
PICKLE = [file("adapter_config.json", CONFIG), file("adapter_model.bin", WEIGHTS)]
ODD = json.dumps({"items": [{"id": "../x", "recipe": PLAIN}]}).encode()
BIG = [file("adapter_config.json", CONFIG, size=2**21), file("adapter_model.safetensors", WEIGHTS)]


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (answers() | {WEIGHTS_PATH: (200, b"weightz")}, "resolver.digest"),
        (answers() | {WEIGHTS_PATH: (200, b"weigh")}, "resolver.digest"),
        (answers() | {WEIGHTS_PATH: (200, WEIGHTS * 1000)}, "resolver.digest"),
        (answers() | {WEIGHTS_PATH: (307, b"")}, "resolver.answer"),
        (answers({"files": EVIL}), "resolver.answer"),
        (answers({"files": PICKLE}), "resolver.answer"),
        (answers({"files": BIG}), "resolver.answer"),
        (answers({"files": []}), "resolver.answer"),
        (answers({"commit": "main"}), "resolver.answer"),
        (answers({"commit": "../../x"}), "resolver.answer"),
        (answers({"repository": "evil/tone"}), "resolver.answer"),
        (answers(patch="acme/other"), "resolver.answer"),
        (answers(release="v1"), "resolver.answer"),
        (answers(version=2), "resolver.answer"),
        (answers(state="held"), "resolver.answer"),
        (answers(options=[]), "resolver.answer"),
        (answers(config=b'{"peft_type": "LORA", "base_model_name_or_path": "base/llama", "revision": "v1"}'), "resolver.answer"),
        (answers(config=b"[" * 100_000), "resolver.answer"),
        (answers() | {"/api/v1/ports": (200, b"[]")}, "resolver.answer"),
        (answers() | {"/api/v1/ports": (200, ODD)}, "resolver.answer"),
        (answers() | {"/api/v1/ports": (200, b'{"items": "' + b"x" * 2**21 + b'"}')}, "resolver.answer"),
        (answers() | {"/api/v1/ports": (500, b"<html>")}, "resolver.answer"),
        (answers() | {"/api/v1/ports": (403, b'{"code": "token.scope", "detail": "No."}')}, "token.scope"),
        (answers() | {"/api/v1/ports": (403, b'{"code": "x\\ny", "detail": "No."}')}, "resolver.answer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_registry_that_lies_gets_nothing_loaded(
    start: Start, caplog: pytest.LogCaptureFixture, tmp_path: Path, given: dict[str, Any], code: str
) -> None:
    """No byte that is not the one that was named, no path of its choosing, no redirect; and nothing is kept."""
    with Impostor(given).serving() as address:
        assert ask(start(PORTLLM_URL=address), "acme/tone@1") == 404
    assert said(caplog) == [code]
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.parent.name != "locks"]
    assert [
        path for path in kept if path.read_bytes() not in (WEIGHTS, given[f"/acme/tone/resolve/{COMMIT}/adapter_config.json"][1])
    ] == []
    assert not list(tmp_path.rglob("*evil*")) + list(tmp_path.rglob("*.bin"))


def test_valid_answers_are_accepted(start: Start, tmp_path: Path) -> None:
    """What the refusals above differ from; the token goes along with everything that is asked."""
    impostor = Impostor(answers())
    with impostor.serving() as address:
        started = start(PORTLLM_URL=address, PORTLLM_TOKEN="plt_mine")
        assert ask(started, "acme/tone@1") == 400, "found; the stand-in cannot load these weights"
    assert {token for _, token in impostor.asked} == {"Bearer plt_mine"}
    assert len(impostor.asked) == 4


def test_a_busy_registry_is_asked_again(start: Start) -> None:
    """503 is its way to say: later."""
    given: dict[str, Any] = answers()
    busy = (503, b'{"code": "server.busy", "detail": "All places are taken."}')
    given["/api/v1/ports"] = [busy, given["/api/v1/ports"]]
    with Impostor(given).serving() as address:
        assert ask(start(PORTLLM_URL=address), "acme/tone") == 400


def test_a_slow_registry_is_given_up(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """After the time that was set, whatever it is doing."""
    began = time.monotonic()
    with Impostor(answers(), pause=3).serving() as address:
        assert ask(start(PORTLLM_URL=address, PORTLLM_VLLM_TIMEOUT_SECONDS=1), "acme/tone") == 404
    assert said(caplog) == ["resolver.timeout"]
    assert time.monotonic() - began < 10


def test_unreachable_registry_resolves_nothing(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    assert ask(start(PORTLLM_URL="http://127.0.0.1:9"), "acme/tone") == 404
    assert said(caplog) == ["resolver.unreachable"]


# -- settings


def test_without_its_variable_the_plugin_stays_away(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """vLLM loads every plug-in that is installed; this one then does not even need vLLM."""
    monkeypatch.delenv("PORTLLM_VLLM_BASE", raising=False)
    with engine(monkeypatch, PORTLLM_URL=url) as started:
        assert started.registry.resolvers == {}
    vllm_resolver.register()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORTLLM_VLLM_BASE", "llama@v2"), ("PORTLLM_VLLM_BASE", "base/llama"), ("PORTLLM_VLLM_BASE", "base/../x@v2"),
        ("PORTLLM_URL", "ftp://x"), ("PORTLLM_URL", "http://["), ("PORTLLM_URL", "http:///x"), ("PORTLLM_URL", ""),
        ("PORTLLM_TOKEN", ""), ("PORTLLM_TOKEN", "sécret"),
        ("PORTLLM_VLLM_CACHE_BYTES", "-1"), ("PORTLLM_VLLM_CACHE_BYTES", "many"), ("PORTLLM_VLLM_TIMEOUT_SECONDS", "nan"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_stop_the_engine(start: Start, variable: str, value: str) -> None:
    """By the name of the variable; a token is never shown."""
    with pytest.raises(ValueError, match=variable) as caught:
        start(**{variable: value})
    assert "sécret" not in str(caught.value)


def test_the_hubs_variables_are_enough(start: Start, world: World, url: str) -> None:
    """HF_ENDPOINT and HF_TOKEN are set for the base anyway."""
    started = start(PORTLLM_URL="", PORTLLM_TOKEN="", HF_ENDPOINT=url, HF_TOKEN=world.acme.token)
    assert ask(started, "acme/tone") == 200


def test_a_token_of_the_hub_is_not_shown_to_a_registry(start: Start, url: str) -> None:
    """It belongs to HF_ENDPOINT, not to PORTLLM_URL."""
    with pytest.raises(ValueError, match="PORTLLM_TOKEN"):
        start(PORTLLM_TOKEN="", HF_TOKEN="hf_secret")
    assert "hf_secret" not in repr(vllm_resolver.Options.read({
        "PORTLLM_VLLM_BASE": BASE, "HF_ENDPOINT": url, "HF_TOKEN": "hf_secret",
    }))  # fmt: skip


def test_a_version_that_is_newer_is_seen_by_who_asks_anew(start: Start, world: World, shelf: Shelf) -> None:
    """OWNER/PATCH is the newest with a port when it is first asked for; OWNER/PATCH@N never moves."""
    name = world.acme.patch("acme", unique("patch"))
    world.acme.publish(name, world.models.patch)
    world.acme.port(name, "v2")
    running = start()
    assert ask(running, name) == 200
    world.acme.publish(name, shelf.patch(world.models.v1, seed=6))
    world.acme.port(name, "v2")
    assert (ask(running, name), ask(running, f"{name}@1")) == (200, 200)
    assert running.loaded[name].lora_path == running.loaded[f"{name}@1"].lora_path
    later = start()
    assert ask(later, name) == 200
    assert later.loaded[name].lora_path != running.loaded[name].lora_path

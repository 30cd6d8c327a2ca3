"""How routes take their bodies: after the sender is known, streamed by declaration or whole within a limit, within a budget."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request

from app.http.app import surround
from app.http.body_budget import BodyBudget
from app.http.body_routes import BodyLimits, BodyRoute, Buffered, Ignored, Streamed, streams_body
from app.http.telemetry import MetricsOptions
from app.hub.schemas import TagIn, parsed
from app.settings import Settings
from tests.support.asgi import AsgiExchange
from tests.support.fixtures import World
from tests.support.pusher import Pusher, here
from tests.support.registry import Service, unique
from tests.support.routes import DOORS, filled_path
from tests.support.uploads import announce

READING = {"GET", "HEAD"}
STREAMED = {
    "PATCH /api/v1/uploads/{upload}/files/{path:path}",
    "POST /api/models/{owner}/{name}/commit/{revision:path}",
    "PUT /api/objects/{ident}",
    "POST /cas/{session}/v1/xorbs/{prefix}/{block}",
    "POST /cas/{session}/v1/shards",
}
LARGE = {
    "POST /api/v1/patches/{owner}/{patch}/versions",
    "POST /{owner}/{name}.git/info/lfs/objects/batch",
    "POST /api/models/{owner}/{name}/preupload/{revision:path}",
    "POST /api/validate-yaml",
}
PIECE = b"[" * 2**16


@pytest.fixture
def pusher(world: World) -> Pusher:
    return Pusher(world.service, f"acme/{unique('bodies')}").create()


async def endless() -> bytes:
    """A body that never ends; a guard ends a route that reads on."""
    await asyncio.sleep(0)
    return PIECE


def body_routes(app: FastAPI) -> Iterator[tuple[str, BodyRoute]]:
    """Every mounted route that takes a body, by its name."""
    for route in app.routes:
        for mounted in route.effective_candidates() if hasattr(route, "effective_candidates") else [route]:
            for method in sorted(set(mounted.methods) - READING):
                assert isinstance(mounted, BodyRoute), f"{method} {mounted.path}"
                yield f"{method} {mounted.path}", mounted


def test_routes_with_a_body_stream_by_declaration_or_are_bounded(world: World) -> None:
    """The walk over the application itself: a route that is added tomorrow is bounded, or appears here."""
    policies = {name: route.policy for name, route in body_routes(world.service.app)}
    assert {name for name, policy in policies.items() if isinstance(policy, Streamed)} == STREAMED
    assert {name for name, policy in policies.items() if policy == Buffered(None)} == LARGE
    ignored = {name for name, policy in policies.items() if isinstance(policy, Ignored)}
    assert ignored == {"POST /cas/{session}/{rest:path}"}
    limits = [policy.limit for policy in policies.values() if isinstance(policy, Buffered) and policy.limit is not None]
    assert len(limits) > 30
    assert max(limits) <= 2**20


def test_an_endless_body_is_refused_by_every_buffered_route(world: World) -> None:
    """With a token of an admin, so that nothing else refuses it; of routes by signed address the signature does."""
    app, admin = world.service.app, world.service.admin.token
    largest = world.service.settings.max_body_bytes

    async def attack() -> list[str]:
        wrong = []
        for name, route in body_routes(app):
            if not isinstance(route.policy, Buffered):
                continue
            method, path = name.split(" ")
            done = await AsgiExchange(app, method, filled_path(path), admin).run(endless)
            bound = min(route.policy.limit or largest, largest)
            expected = (401, 0) if path.startswith("/api/objects/{ident}/") else (413, bound // len(PIECE) + 1)
            if (done.status, done.read) != expected:
                wrong.append(f"{name}: {done.status} after {done.read} pieces")
        return wrong

    assert asyncio.run(attack()) == []


def test_an_endless_body_is_refused_by_every_streamed_route(world: World, pusher: Pusher) -> None:
    """What a streamed route parses is bounded by its own reader."""
    app, token = world.service.app, world.acme.token
    session = pusher.session()
    bearer = session.headers["Authorization"].removeprefix("Bearer ")
    signed = here(pusher.batch(b"x" * 100).json()["objects"][0]["actions"]["upload"]["href"])
    files = [announce("adapter_config.json", b"{}"), announce("adapter_model.safetensors", b"x")]
    drafted = world.acme.post(f"/patches/{world.patch()}/versions", {"trained_on": "v1", "files": files}).json()
    commit = f"/api/models/{pusher.repository}/commit/main"
    attacks = {
        "PATCH /api/v1/uploads/{upload}/files/{path:path}": (drafted["uploads"][0]["url"], token, "upload.too_long"),
        "POST /api/models/{owner}/{name}/commit/{revision:path}": (commit, token, "request.too_large"),
        "PUT /api/objects/{ident}": (signed, None, "request.too_large"),
        "POST /cas/{session}/v1/xorbs/{prefix}/{block}": (f"{session.url}/v1/xorbs/default/{'ab' * 32}", bearer, "xet.block"),
        "POST /cas/{session}/v1/shards": (f"{session.url}/v1/shards", bearer, "xet.shard"),
    }
    assert set(attacks) == STREAMED

    async def attack() -> None:
        for name, (path, secret, code) in attacks.items():
            sent = await AsgiExchange(app, name.split(" ")[0], path, secret, {"upload-offset": "0"}).run(endless)
            assert sent.code == code, f"{name}: {sent.answer!r}"
            assert sent.read * len(PIECE) <= 4 * 2**20, name

    asyncio.run(attack())


def test_a_body_of_a_stranger_is_not_read(world: World) -> None:
    """401 before the first byte, on every route; the exchange of identity tokens alone reads a little from strangers."""
    app = world.service.app

    async def ask() -> list[str]:
        wrong = []
        for name, _ in body_routes(app):
            method, path = name.split(" ")
            if path in DOORS:
                continue
            done = await AsgiExchange(app, method, filled_path(path)).run(endless)
            if (done.status, done.read) != (401, 0):
                wrong.append(f"{name}: {done.status} after {done.read} pieces")
        door = await AsgiExchange(app, "POST", "/api/v1/tokens/exchange").run(endless)
        assert (door.status, door.read) == (413, 2)
        return wrong

    assert asyncio.run(ask()) == []


def test_a_length_that_is_too_large_is_refused_before_the_body_is_read(world: World) -> None:
    said = {"content-length": str(world.service.settings.max_body_bytes + 1)}
    sent = AsgiExchange(world.service.app, "POST", "/cas/x.git/info/lfs/objects/batch", world.service.admin.token, said)
    done = asyncio.run(sent.run(endless))
    assert (done.status, done.code, done.read) == (413, "request.too_large", 0)


def test_bodies_under_way_fill_the_share_of_their_owner_only(registries: Callable[..., Service]) -> None:
    """A third body of one owner is refused while two are being received; another owner's and, after them, its own are taken."""
    with registries(max_body_bytes=100_000, body_bytes=400_000, body_bytes_per_owner=200_000).running() as service:
        app, acme, rival = service.app, service.caller("acme"), service.caller("rival")
        path, budget = "/api/v1/patches/acme/none/versions", service.app.state.bodies.budget

        async def send() -> None:
            goes_on = asyncio.Event()

            async def slow(pieces: list[bytes]) -> bytes | None:
                if not pieces:
                    await goes_on.wait()
                    return None
                return pieces.pop()

            def sent(token: str | None, size: int) -> Any:
                pieces = [b" " * size]
                return asyncio.create_task(AsgiExchange(app, "POST", path, token).run(lambda: slow(pieces)))

            async with asyncio.timeout(30):
                slow_ones = [sent(acme.token, 90_000), sent(acme.token, 90_000)]
                while budget.held() < 180_000:
                    await asyncio.sleep(0.01)
                refusal = await sent(acme.token, 90_000)
                assert (refusal.status, refusal.code) == (503, "request.bodies_busy")
                assert int(refusal.sent["retry-after"]) > 0
                others = [sent(rival.token, 90_000), sent(rival.token, 90_000)]
                while budget.held() < 360_000:
                    await asyncio.sleep(0.01)
                full = await sent(service.admin.token, 90_000)
                assert (full.status, full.code) == (503, "request.bodies_busy")
                goes_on.set()
                for done in await asyncio.gather(*slow_ones, *others):
                    assert done.code == "request.invalid"
                assert (await sent(acme.token, 90_000)).code == "request.invalid"
            assert budget.held() == 0

        asyncio.run(send())


def test_a_streamed_body_counts_by_the_piece_that_is_held(world: World, pusher: Pusher) -> None:
    """Not by its length: 64 MiB that are written 1 MiB at a time hold 1 MiB."""
    app, seen = world.service.app, list[int]()
    session = pusher.session()

    async def look() -> bytes | None:
        seen.append(app.state.bodies.budget.held())
        return b"\0" * 10  # no chunk's header: refused

    said = {"content-length": str(60 * 2**20)}
    said["authorization"] = session.headers["Authorization"]
    done = asyncio.run(AsgiExchange(app, "POST", f"{session.url}/v1/xorbs/default/{'ab' * 32}", None, said).run(look))
    assert (done.code, max(seen)) == ("xet.block", world.service.runtime.tools.blobs.write_bytes)
    assert app.state.bodies.budget.held() == 0


def test_a_body_that_breaks_off_is_told_so_and_holds_nothing(world: World) -> None:
    app = world.service.app

    async def send() -> AsgiExchange:
        sent = AsgiExchange(app, "POST", "/api/v1/families", world.service.admin.token)
        pieces = iter([b"{"])

        async def broken() -> bytes | None:
            from starlette.requests import ClientDisconnect

            for piece in pieces:
                return piece
            raise ClientDisconnect

        return await sent.run(broken)

    assert asyncio.run(send()).code == "upload.broken"
    assert app.state.bodies.budget.held() == 0


def test_a_reservation_that_grew_is_given_back_once() -> None:
    budget = BodyBudget(100, 60)
    with budget.open("acme") as first, budget.open("acme") as second:
        first.grow(10)
        first.grow(40)
        first.grow(20)
        second.grow(20)
        assert budget.held() == 60
        with pytest.raises(Exception, match="of one owner"):
            second.grow(21)
        assert budget.held() == 60
    assert budget.held() == 0


def test_a_route_that_reads_without_a_limit_is_not_built() -> None:
    app = FastAPI()

    @app.post("/anything")
    def anything() -> None:
        """Takes nothing."""

    with pytest.raises(RuntimeError, match="/anything"):
        surround(app, BodyLimits(1, 1, 1), MetricsOptions())


def test_a_route_that_streams_cannot_parse_its_body_whole() -> None:
    """The declaration and the reader disagree: an error of ours, not an unbounded read."""
    router = APIRouter(route_class=BodyRoute)

    @router.post("/both")
    @streams_body(10)
    async def both(request: Request) -> str:
        return parsed(request, TagIn).tag

    app = FastAPI()
    app.include_router(router)
    app.state.registry, app.state.bodies = None, BodyLimits(100, 100, 100)
    with pytest.raises(TypeError, match="not buffered"):
        asyncio.run(AsgiExchange(app, "POST", "/both").run(endless))


@pytest.mark.parametrize(("total", "each"), [(2**20, None), (2**26, 2**20), (2**26, 2**27)])
def test_budgets_that_no_body_fits_are_refused(total: int, each: int | None) -> None:
    with pytest.raises(ValueError, match="PORTLLM_BODY_BYTES"):
        Settings(body_bytes=total, body_bytes_per_owner=each)


def test_the_share_of_an_owner_is_half_where_nothing_else_is_set() -> None:
    assert Settings(body_bytes=2**28).body_bytes_of_one == 2**27

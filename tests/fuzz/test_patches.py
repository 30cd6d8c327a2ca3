"""Spoilt patches from the draft on: published with exactly the bytes that were sent, or refused with a code and not there."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.budget import tried
from tests.fuzz.nasty import NAMES, cards, configs, weights
from tests.support.fuzz_world import CONFIG, WEIGHTS, World
from tests.support.registry import unique


def publish(world: World, patch: str, files: dict[str, bytes]) -> None:
    """Sends a patch, whatever it is, and holds the registry to its word."""
    listed = world.acme.get(f"/patches/{patch}/versions").json()["items"]
    answer = world.draft(patch, files)
    assert world.check(answer) is None, answer.text
    draft = answer.json()
    world.send(draft, files)
    published = world.acme.post(f"/uploads/{draft['id']}/publish")
    code = world.check(published)
    now = world.acme.get(f"/patches/{patch}/versions").json()["items"]
    if code is None:
        version = published.json()
        assert version["number"] in {found["number"] for found in now}
        url = f"/patches/{patch}/versions/{version['number']}"
        assert world.acme.get(url).json()["digest"] == version["digest"]
        for path, content in files.items():
            assert world.acme.get(f"{url}/files/{path}").content == content
        carry(world, patch, version["number"])
        return
    assert published.status_code < 500
    assert now == listed
    open_still = world.acme.get(f"/uploads/{draft['id']}").json()
    assert (open_still["state"], open_still["number"]) == ("draft", None)
    # What was looked at was taken from where it had arrived: it is asked for again, and refused for the same reason.
    world.send(open_still, {path: files[path][file["received"] :] for path, file in received(open_still).items()})
    assert world.check(world.acme.post(f"/uploads/{draft['id']}/publish")) == code


def received(draft: dict[str, Any]) -> dict[str, Any]:
    """What is said of each file of an open upload."""
    return {file["path"]: file for file in draft["uploads"]}


def carry(world: World, patch: str, number: int) -> None:
    """What was published can be ported, or is refused with a reason; a merged file is as long as it is said to be."""
    wish = {"patch": patch, "release": "v1", "version": number}
    checked = world.acme.post("/ports/check", wish)
    assert world.check(checked) is None or checked.status_code < 500
    port = world.acme.post("/ports", wish)
    if world.check(port) is None and port.json()["state"] == "ready":
        url = f"/ports/{port.json()['id']}/files"
        for file in world.acme.get(url).json()["files"]:
            read = world.acme.get(f"{url}/{file['path']}")
            assert world.check(read) is None or read.status_code == 409
            assert read.status_code == 409 or len(read.content) == file["size"]


def test_spoilt_patches(world: World) -> None:
    good = world.files()

    @tried(25)
    @given(weights(good[WEIGHTS]), configs(good[CONFIG]))
    def spoil(file: bytes, config: bytes) -> None:
        patch = world.new_patch()
        publish(world, patch, {WEIGHTS: file, CONFIG: config})
        # Whatever went before, a good patch is published after it.
        after = good | {"README.md": unique("card").encode()}
        draft = world.draft(patch, after).json()
        world.send(draft, after)
        assert world.acme.post(f"/uploads/{draft['id']}/publish").status_code == 200
        world.quiet()

    spoil()


def test_cards(world: World) -> None:
    """Whatever a README.md says, its patch is published, and everybody who may can read and list it."""
    good, reader = world.files(), world.callers["reader"]

    @tried(15)
    @given(cards())
    def read(card: bytes) -> None:
        patch, files = world.new_patch(), good | {"README.md": card}
        publish(world, patch, files)
        for path in (f"/api/models/{patch}", f"/api/models/{patch}.merged", f"/{patch}/resolve/main/README.md", "/api/models"):
            answer = reader("GET", path, whole=True)
            assert answer.status_code == 200, (path, answer.text)
        checked = reader("POST", "/api/validate-yaml", whole=True, json={"content": card.decode()})
        assert checked.status_code == 200
        world.quiet()

    read()


ANY_NAME = st.one_of(
    st.sampled_from([*NAMES, WEIGHTS, CONFIG, f"./{CONFIG}", f"x/../{CONFIG}", f"{CONFIG}/", CONFIG.upper(), f"{CONFIG} "]),
    st.text(max_size=40), st.from_regex(r"(\.{0,2}/){1,4}[a-z_.]{1,30}", fullmatch=True),
)  # fmt: skip


def test_names_of_files(world: World) -> None:
    """Whatever files are called beside those of a patch, they are left out by name or the draft is refused."""

    @tried(25)
    @given(
        st.dictionaries(ANY_NAME, st.binary(max_size=8), max_size=5), st.sampled_from([{}, {"size": 2**62}, {"sha256": "A" * 64}])
    )
    def name(others: dict[str, bytes], wrong: dict[str, object]) -> None:
        files = others | world.files()
        answer = world.draft(world.new_patch(), files, **wrong)
        if world.check(answer) is None:
            draft = answer.json()
            kept = {upload["path"] for upload in draft["uploads"]}
            assert kept | set(draft["dropped"]) == set(files)
            assert not kept & set(draft["dropped"])
            assert {CONFIG, WEIGHTS} <= kept
            assert all("/" not in path and path.isascii() for path in kept)

    name()

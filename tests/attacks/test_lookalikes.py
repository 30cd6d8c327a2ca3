"""Names that look like others or like paths: what is not plain ASCII is no name, and no name is ever a path."""

import pytest

from tests.support.fuzz_world import CONFIG, WEIGHTS, World

LOOKALIKES = {
    "cyrillic": "\u0430cme", "full width": "\uff41cme", "combining": "acme\u0301",
    "zero width": "ac\u200bme", "joiner": "ac\u200dme",
    "right to left": "\u202eemca", "kelvin": "\u212aey", "long s": "ma\u017f\u017f", "dotless": "\u0131nt",
    "soft hyphen": "ac\u00adme",
    "upper": "ACME", "ligature": "\ufb01n", "digits": "v\u0661", "superscript": "v\u00b2", "mathematical": "\U0001d41acme",
    "ideographic space": "a\u3000b", "mark": "a\ufeffb", "tag": "acme\U000e0041", "emoji": "\U0001f600",
}  # fmt: skip
PATHS = [
    "..", ".", "../x", "a/../b", "/etc", "a/b", "a\\b", "C:", "c:x", "a%2fb", "%2e%2e", "a..b", ".hidden", "a.", "~", "a:stream",
    "a|b", "a*", "a?b", "a#b", "a;b", "a'b", 'a"b', "$(id)", "`id`", "-rf", "a" * 65, "a" * 89, "a\r\nb", "a\tb", "a b", "a--b",
]  # fmt: skip


@pytest.mark.parametrize("name", [*LOOKALIKES.values(), *PATHS])
def test_lookalike_name_is_refused(world: World, name: str) -> None:
    """Neither family, release, owner, patch, alias nor holder of a token or grant can be called so."""
    models = str(world.patch_dir.parent / "v1")
    admin = world.service.admin
    for method, url, body in (
        ("POST", "/families", {"name": name}), ("POST", "/families", {"name": "fine", "readers": [name]}),
        ("POST", "/families/llama/releases", {"name": name, "directory": models}),
        ("POST", "/patches", {"owner": name, "name": "x", "family": "llama"}),
        ("POST", "/patches", {"owner": "acme", "name": name, "family": "llama"}),
        ("POST", "/tokens", {"owner": name, "scopes": ["read"]}),
    ):  # fmt: skip
        answer = admin(method, url, json=body)
        assert world.check(answer) in ("request.name", "request.invalid"), (url, answer.text)
    assert admin.get("/families/fine").status_code == 404


@pytest.mark.parametrize(
    "name", [*LOOKALIKES.values(), *PATHS, "%00", "%2f", "%5c", "..%2f..%2fetc", "%c0%ae", "%ff", "nul", "con"]
)
def test_lookalike_name_finds_nothing(world: World, name: str) -> None:
    """In an address too: nothing is folded, normalised or cut to a name that is there."""
    quoted = name.replace("?", "%3f").replace("#", "%23").replace("\r", "%0d").replace("\n", "%0a").replace("\t", "%09")
    version = "/patches/acme/tone/versions/1/files"
    for url in (
        f"/families/{quoted}x", f"/families/llama/releases/{quoted}", f"/patches/{quoted}/tone", f"/patches/acme/{quoted}",
        f"{version}/{quoted}", f"/ports/{world.known['port'][0]}/files/{quoted}", f"/uploads/{quoted}", f"/jobs/{quoted}",
    ):  # fmt: skip
        answer = world.service.admin.get(url)
        if ".." in name or name in (".", "/etc"):  # the client itself takes these for other addresses
            world.check(answer)
        else:
            assert answer.status_code in (404, 422), (url, answer.text)
            assert world.check(answer) not in (None, "server.error")


@pytest.mark.parametrize("alias", [*list(LOOKALIKES.values()), "a--b", "7", "main", "a.", "a" * 65])
def test_lookalike_alias_is_refused(world: World, alias: str) -> None:
    answer = world.acme("PUT", f"/patches/acme/tone/aliases/{alias}", json={"version": "1"})
    assert world.check(answer) == "request.name", answer.text


def test_names_of_devices_are_only_names(world: World) -> None:
    """Nothing that somebody names becomes a file: names of devices are as good as others."""
    for name in ("con", "nul", "aux", "prn", "com1", "lpt1", "conin"):
        assert world.acme.post("/patches", {"owner": "acme", "name": name, "family": "llama"}).status_code == 201
    assert {path.name for path in world.service.data.rglob("*")}.isdisjoint({"con", "nul", "aux", "acme"})


@pytest.mark.parametrize("end", ["%0a", "%0d%0a", "%0d", "%7f", "%00", "%09"])
def test_no_route_ends_in_a_line_end(world: World, end: str) -> None:
    """A proxy that keeps an address to itself means that one, and we do not take another for it."""
    for url in ("/healthz", "/metrics", "/problems", "/api/v1/whoami", "/api/v1/patches/acme/tone/versions/1/files/README.md"):
        answer = world.service.admin.client.get(url + end, headers={"Authorization": f"Bearer {world.service.admin.token}"})
        assert world.check(answer) == "request.invalid"


SPOILT = [
    f"../{CONFIG}", f"/{CONFIG}", f"./{CONFIG}", f"a/../{CONFIG}", f"a\\..\\{CONFIG}", f"{CONFIG}\u200b",
    f"{CONFIG} ", f" {CONFIG}",
    f"{CONFIG}.", CONFIG.upper(), f"{CONFIG}::$DATA", f"{CONFIG}%00", "\u0430dapter_config.json", f"{CONFIG}\n",
    f"x/{CONFIG}", "a" * 1024,
]  # fmt: skip


@pytest.mark.parametrize("path", SPOILT)
def test_lookalike_file_beside_a_patch_is_left_out(world: World, path: str) -> None:
    """Only the very names that belong to a patch are kept, whatever is like them is left out under the name that it has."""
    files = world.files()
    draft = world.draft(world.new_patch(), files | {path: b"{}"}).json()
    assert draft["dropped"] == [path]
    del files[CONFIG]
    assert world.check(world.draft(world.new_patch(), files | {path: b"{}"})) == "adapter.missing_file"


@pytest.mark.parametrize("path", [*SPOILT, "..%2f..%2fadmin-token", "%2e%2e/%2e%2e/admin-token", "....//admin-token", "0", "1"])
def test_upload_to_a_file_that_was_not_announced_is_refused(world: World, path: str) -> None:
    """Bytes go to files that were announced, by the names that they were announced by; nothing else is written."""
    upload = world.draft(world.new_patch(), world.files()).json()["id"]
    before = {found for found in world.service.data.rglob("*") if found.is_file()}
    quoted = path.replace("\n", "%0a")
    answer = world.acme("PATCH", f"/uploads/{upload}/files/{quoted}", content=b"x", headers={"Upload-Offset": "0"})
    if path not in (f"./{CONFIG}", f"a/../{CONFIG}"):  # the client makes these the good name
        assert world.check(answer) in ("upload.file", "request.route", "request.method", "request.invalid"), answer.text
        assert {found for found in world.service.data.rglob("*") if found.is_file()} == before
    assert WEIGHTS in {file["path"] for file in world.acme.get(f"/uploads/{upload}").json()["uploads"]}

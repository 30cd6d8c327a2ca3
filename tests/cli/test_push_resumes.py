"""`portllm patch push` over a network that breaks, and again after it was broken off."""

import json
from pathlib import Path

import pytest

from tests.support.merging import digests
from tests.support.proxy import Proxy
from tests.support.service_process import Service, invoke
from tests.support.sparse_models import large_patch, large_release

WEIGHTS = "adapter_model.safetensors"
CUT = 5 * 2**20


@pytest.fixture(scope="module")
def patch(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patch of 8 MB whose base is registered as pushes/v1."""
    release = large_release(service.root / "releases/pushes", 1)
    assert invoke("release", "add", "pushes", "v1", "--from", release, "--wait", **service.variables()).exit_code == 0
    return large_patch(tmp_path_factory.mktemp("push") / "patch", 1, 256, 3)


def test_a_cut_upload_goes_on_at_its_offset(service: Service, patch: Path) -> None:
    """The connection breaks in the middle of a file: the client asks how much arrived and sends the rest alone."""
    seen_before = service.errors()
    with Proxy(service.url) as proxy:
        proxy.cut_up = CUT
        pushed = _push(service, proxy.url, "pushes/cut", patch)
    assert pushed["state"] == "published"
    assert {f["path"]: f["sha256"] for f in pushed["files"]} == digests(patch)
    asked = [(a.method, a.headers.get("upload-offset")) for a in proxy.asked if a.path.endswith(WEIGHTS)]
    assert [method for method, _ in asked] == ["PATCH", "HEAD", "PATCH"]
    offsets = [int(offset) for method, offset in asked if method == "PATCH" and offset is not None]
    assert offsets[0] == 0
    assert CUT - 2 * 2**20 < offsets[1] <= CUT
    assert "Traceback" not in service.errors().removeprefix(seen_before), "a client that goes away is no error of the service"


def test_the_same_push_twice_is_one_version(service: Service, patch: Path) -> None:
    """The second call finds the bytes published, sends none of them and names the same version."""
    first = _push(service, service.url, "pushes/twice", patch)
    with Proxy(service.url) as proxy:
        second = _push(service, proxy.url, "pushes/twice", patch)
    assert (first["id"], first["number"]) == (second["id"], second["number"])
    assert not [a for a in proxy.asked if a.method == "PATCH"]


def test_what_does_not_belong_to_a_patch_is_left_at_home(service: Service, patch: Path) -> None:
    """Optimizer states and training arguments are pickles: named in the answer, never sent."""
    (patch / "optimizer.pt").write_bytes(b"\x80\x02 not for the registry")
    with Proxy(service.url) as proxy:
        pushed = _push(service, proxy.url, "pushes/companions", patch)
        told = invoke("patch", "push", "pushes/told", patch, "--family", "pushes", "--trained-on", "v1", **service.variables())
    assert pushed["dropped"] == ["optimizer.pt"]
    assert "Left out, not part of a patch: optimizer.pt." in told.stdout
    assert not [a for a in proxy.asked if "optimizer" in a.path]


def _push(service: Service, url: str, name: str, patch: Path) -> dict[str, object]:
    pushed = invoke(
        "patch", "push", name, patch, "--family", "pushes", "--trained-on", "v1", "--json", **service.variables(url)
    )  # fmt: skip
    assert pushed.exit_code == 0, pushed.output
    row: dict[str, object] = json.loads(pushed.stdout)
    return row

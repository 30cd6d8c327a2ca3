"""Each version of the clients: it lists, downloads, resumes, loads, computes what PEFT computes, and takes no for an answer."""

import hashlib
from pathlib import Path

import pytest

from tests.clients_matrix.build import ENVIRONMENTS, ROOT, python_of
from tests.support.proxy import Proxy
from tests.support.shop import FAMILY, PATCH, Shop, direct, merged_files
from tests.support.stock_clients import Clients, seen

pytestmark = pytest.mark.skipif(not ROOT, reason="`make clients` builds the environments and says where they are")
MERGED = f"{PATCH}.merged"
# A version that ends when its connection does, and resumes when it is run again.
ENDS_WHEN_CUT = {"hub-0.36"}


@pytest.fixture(params=ENVIRONMENTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def clients(name: str, shop: Shop, tmp_path: Path) -> Clients:
    return Clients(shop.service.url, shop.token, tmp_path / "home", python_of(Path(ROOT), name))


def test_files(clients: Clients, name: str, shop: Shop) -> None:
    """Lists, trees, refs, one file, a snapshot, the file system, refusals."""
    found, expected = clients.run("files", FAMILY, PATCH, STRANGER=shop.stranger), merged_files(shop)
    assert found["version"].startswith(name.removeprefix("hub-"))
    assert {path: digest for path, digest in found["snapshot"].items() if path != "README.md"} == expected
    assert found["folder"] == found["sha"]
    assert found["models"] == [PATCH, MERGED]
    assert set(found["files"]) == set(found["tree"]) == {*expected, "README.md"}
    assert found["exists"] == [True, False, True, False, True, False]
    assert found["refs"] == {"main": found["sha"], "v2": found["sha"], "v2@1": found["sha"]}
    assert found["adapter"]["revision"] == "v2"
    assert found["part"]
    for key in ("no_repository", "no_model", "foreign", "foreign_file"):
        assert found[key][0] == "RepositoryNotFoundError", found[key]
    assert found["no_revision"][0] == "RevisionNotFoundError"
    assert "EntryNotFoundError" in found["no_entry"][0]


def test_models(clients: Clients, name: str) -> None:
    """Logits of the merged model and of PEFT on the same release; a tokenizer that transformers 5 wrote is not read by 4."""
    arguments = ("without", "tokenizer") if name == "hub-0.36" else ()
    found = clients.run("models", FAMILY, PATCH, *arguments, seconds=400)
    assert found["pinned"] == 0
    assert found["peft"] < 1e-5 * max(1.0, found["scale"]), found
    assert found["auto_peft"] == found["peft"]
    assert found["effect"] > 1000 * max(found["peft"], 1e-7)


def test_a_download_that_is_cut(clients: Clients, name: str, shop: Shop, large: str) -> None:
    expected = hashlib.sha256(direct(shop, large, "model.safetensors").content).hexdigest()
    with Proxy(shop.service.url) as proxy:
        through = Clients(proxy.url, clients.token, clients.home, clients.python)
        proxy.cut_down = 20 * 2**20
        arguments = ("fetch", large, "v1", "model.safetensors")
        if name in ENDS_WHEN_CUT:
            with pytest.raises(AssertionError):
                through.run(*arguments)
        found = through.run(*arguments)
        asked = [request for request in proxy.find("GET", "model.safetensors") if "range" in request.headers]
    assert found["sha256"] == expected
    assert len(asked) == 1
    assert int(asked[0].headers["range"].removeprefix("bytes=").split("-")[0]) > 2**20


def test_eight_loads_at_once(clients: Clients, shop: Shop, large: str) -> None:
    runs = []
    for number in range(8):
        apart = Clients(clients.endpoint, clients.token, clients.home / str(number), clients.python)
        runs.append(apart.script("fetch", large, "v1", "model.safetensors"))
    digests = {seen(run)["sha256"] for run in runs}
    assert digests == {hashlib.sha256(direct(shop, large, "model.safetensors").content).hexdigest()}

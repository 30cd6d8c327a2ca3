"""Stock clients against a running service: nothing but an endpoint and a token tells them that this is not the Hub."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.proxy import Proxy
from tests.support.shop import FAMILY, PATCH, Shop, direct, merged_files
from tests.support.stock_clients import Clients

MERGED = f"{PATCH}.merged"


@pytest.fixture(scope="module")
def found(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What huggingface_hub saw."""
    return shop.clients(tmp_path_factory.mktemp("home")).run("files", FAMILY, PATCH, STRANGER=shop.stranger)


def test_huggingface_hub(shop: Shop, found: dict[str, Any]) -> None:
    """Lists, trees, refs, downloads, the file system."""
    expected = merged_files(shop)
    assert found["whoami"] == ["hubacme", "user", "read"]
    assert found["models"] == [PATCH, MERGED]
    assert found["bases"] == [f"base/{FAMILY}"]
    assert found["made_of"] == [PATCH, MERGED]
    assert found["two"] == 2
    assert found["library"] == "transformers"
    assert {f"base_model:base/{FAMILY}", "merge"} <= set(found["tags"])
    assert found["card"]["base_model"] == f"base/{FAMILY}"
    assert set(found["files"]) == set(found["sizes"]) == set(found["tree"]) == {*expected, "README.md"}
    assert found["exists"] == [True, False, True, False, True, False]
    assert found["refs"] == {"main": found["sha"], "v2": found["sha"], "v2@1": found["sha"]}
    assert len(found["commits"]) == 2
    assert set(found["paths"]) == {"config.json"}
    assert found["expanded"] == found["folder"] == found["sha"]
    assert found["one"] == found["blob"] == expected["config.json"]  # the cache names blobs by ETag
    assert {path: digest for path, digest in found["snapshot"].items() if path != "README.md"} == expected
    assert (found["adapter"]["base_model_name_or_path"], found["adapter"]["revision"]) == (f"base/{FAMILY}", "v2")
    assert found["weights"] == hashlib.sha256((shop.models / "patch/adapter_model.safetensors").read_bytes()).hexdigest()
    assert set(found["ls"]) == set(found["files"])
    assert found["part"]


def test_refusals_are_those_of_the_hub(found: dict[str, Any]) -> None:
    """Clients raise what they raise on the Hub, and print our sentence."""
    for key in ("no_repository", "no_model", "foreign", "foreign_file"):
        assert found[key][0] == "RepositoryNotFoundError", found[key]
    assert found["no_revision"][0] == "RevisionNotFoundError"
    assert found["no_entry"][0] in ("EntryNotFoundError", "RemoteEntryNotFoundError")
    assert "has no release 'v9'" in found["no_revision"][1]
    assert f"There is no patch '{PATCH}'" in found["foreign"][1]
    assert "Invalid credentials" in found["bad_token"][1]


def test_transformers_and_peft(shop: Shop, tmp_path: Path) -> None:
    """The merged model computes what PEFT computes on the same release, and not what the base alone does."""
    found = shop.clients(tmp_path).run("models", FAMILY, PATCH)
    assert found["pinned"] == 0
    assert found["peft"] < 1e-5 * max(1.0, found["scale"]), found
    assert found["auto_peft"] == found["through"] == found["peft"], found
    assert found["effect"] > 1000 * max(found["peft"], 1e-7), found
    assert found["tokenizer"]
    assert found["pipeline"]


def hf_of(clients: Clients) -> str:
    """The command line beside a Python."""
    return str(Path(clients.python).parent / "hf")


def test_command_line(shop: Shop, tmp_path: Path) -> None:
    """`hf`: whoami, download."""
    clients = shop.clients(tmp_path / "home")
    asked = clients.start(hf_of(clients), "auth", "whoami")
    out, errors = asked.communicate(timeout=120)
    assert asked.returncode == 0, errors
    assert "hubacme" in out
    got = clients.start(hf_of(clients), "download", MERGED, "--revision", "v2@1", "--local-dir", str(tmp_path / "out"))
    out, errors = got.communicate(timeout=120)
    assert got.returncode == 0, errors
    for path, digest in merged_files(shop).items():
        assert hashlib.sha256((tmp_path / "out" / path).read_bytes()).hexdigest() == digest


def test_eight_loads_at_once(shop: Shop, tmp_path: Path) -> None:
    """More readers than places, each with several shards at once: all of them get everything."""
    arguments = ("download", MERGED, "--revision", "v2@1")
    runs = []
    for number in range(8):
        clients = shop.clients(tmp_path / f"home{number}")
        runs.append(
            clients.start(str(Path(clients.python).parent / "hf"), *arguments, "--local-dir", str(tmp_path / f"out{number}"))
        )
    for run in runs:
        _, errors = run.communicate(timeout=240)
        assert run.returncode == 0, errors
    for path, digest in merged_files(shop).items():
        copies = {hashlib.sha256((tmp_path / f"out{number}" / path).read_bytes()).hexdigest() for number in range(8)}
        assert copies == {digest}, path


def test_a_download_that_is_cut(shop: Shop, large: str, tmp_path: Path) -> None:
    """Is taken up where it ended, by a range, and is whole in the end."""
    expected = hashlib.sha256(direct(shop, large, "model.safetensors").content).hexdigest()
    with Proxy(shop.service.url) as proxy:
        proxy.cut_down = 20 * 2**20
        found = shop.clients(tmp_path, proxy.url).run("fetch", large, "v1", "model.safetensors")
        asked = proxy.find("GET", "model.safetensors")
    assert found["sha256"] == expected
    assert proxy.cut_down is None, "nothing was cut"
    assert len(asked) == 2
    assert asked[1].headers["range"].startswith("bytes=")
    assert int(asked[1].headers["range"].removeprefix("bytes=").split("-")[0]) > 2**20


def test_parallel_ranges(shop: Shop, large: str) -> None:
    """Pieces that several connections read at once are the pieces of one file."""
    whole = direct(shop, large, "model.safetensors").content
    step = 7_000_001
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(
            lambda start: direct(shop, large, "model.safetensors", Range=f"bytes={start}-{start + step - 1}"),
            range(0, len(whole), step),
        )
        joined = b"".join(part.content for part in parts)
    assert joined == whole

"""Memory of a service that is sent bombs: it grows by what the largest body costs once, not with how many came."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.fuzz.budget import SECONDS
from tests.support.files import factors, raw_file, write_patch
from tests.support.hostile import JSON_BOMBS, MIB, MODULE, exchange
from tests.support.service_process import Service
from tests.support.uploads import announce

# Measured: 210 MiB for a header of 16 MiB; the allocator keeps some of it.
GROWTH = 450 * MIB
JSON = {"Content-Type": "application/json"}
PLAIN = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}


def headers() -> list[bytes]:
    """Weights whose headers are large, deep, or say so."""
    return [
        raw_file(b'{"a":[' + b"[]," * 5_000_000 + b"[]]}"), raw_file(b'{"a":' * 3_000_000), raw_file(b"{}", b"", 100 * MIB),
        raw_file(b"{}", b"", 2**63),
        raw_file(b"{" + b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(200_000)) + b"}"),
    ]  # fmt: skip


def configs() -> list[bytes]:
    """Configurations with many patterns.

    The first has about as many as are allowed together, and is published: what it was trained on is not known.
    """
    counts = (1_500, 20_000, 1_000_000)
    return [json.dumps(PLAIN | {"rank_pattern": dict.fromkeys(map(str, range(count)), 2)}).encode() for count in counts]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    started = Service(tmp_path, tmp_path).start()
    try:
        yield started
    finally:
        started.kill()


def publish(client: httpx.Client, name: str, files: dict[str, bytes]) -> httpx.Response:
    """Announces, sends and publishes a patch that was trained on nothing known."""
    client.post("patches", json={"owner": "acme", "name": name, "family": "llama"}).raise_for_status()
    listed = [announce(path, content) for path, content in files.items()]
    drafted = client.post(f"patches/acme/{name}/versions", json={"trained_on": "unknown", "files": listed})
    draft = drafted.raise_for_status().json()
    for upload in draft["uploads"]:
        sent = client.patch(
            f"uploads/{draft['id']}/files/{upload['path']}", content=files[upload["path"]], headers={"Upload-Offset": "0"}
        )
        sent.raise_for_status()
    return client.post(f"uploads/{draft['id']}/publish")


def bombard(service: Service, good: dict[str, bytes], turn: int) -> None:
    """Every bomb once, of somebody with a token and of a stranger."""
    parts = urlsplit(service.url)
    assert parts.hostname
    assert parts.port
    with service.client() as client:
        for body in JSON_BOMBS.values():
            assert client.post("patches/acme/none/versions", content=body, headers=JSON).status_code in (400, 413, 422)
            address = f"{service.url}/api/v1/patches/acme/none/versions"
            strange = httpx.post(address, content=body, headers=JSON | {"Authorization": "Bearer x"}, timeout=60)
            assert strange.status_code == 401
        for number, header in enumerate(headers()):
            refused = publish(client, f"h{turn}-{number}", good | {"adapter_model.safetensors": header})
            assert refused.status_code == 422, refused.text[:500]
        for number, config in enumerate(configs()):
            answer = publish(client, f"c{turn}-{number}", good | {"adapter_config.json": config})
            assert answer.status_code == (200 if number == 0 else 422), answer.text[:500]
    endless = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1_000_000
    assert exchange((parts.hostname, parts.port), endless, gone=True)[:12] in (b"HTTP/1.1 431", b"")


@pytest.mark.skipif(not SECONDS, reason="takes a minute: `make fuzz` runs it")
@pytest.mark.timeout(600)
def test_bombs(service: Service, tmp_path: Path) -> None:
    """The peak is bounded, and is the same when everything comes a second time."""
    patch = write_patch(tmp_path / "patch", {MODULE: factors((6, 8), 2, "F32", 1)})
    good = {path.name: path.read_bytes() for path in patch.iterdir()}
    with service.client() as client:
        client.post("families", json={"name": "llama", "readers": ["*"]}).raise_for_status()
        assert publish(client, "good", good).status_code == 200  # loads what is loaded at first use
    before = service.memory("VmRSS")
    bombard(service, good, 1)
    first = service.memory("VmHWM")
    assert first - before < GROWTH, f"{before / MIB:.0f} MiB before, {first / MIB:.0f} MiB at most"
    bombard(service, good, 2)
    assert service.memory("VmHWM") - first < GROWTH / 4
    assert httpx.get(f"{service.url}/healthz").json() == {"status": "ok"}

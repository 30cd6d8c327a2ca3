"""Reads hold no database connection while plans are made, files opened and bytes read or computed."""

import pytest

from tests.support.connections import watched
from tests.support.fixtures import Models
from tests.support.registry import Caller, Service

SHARD = "model-00001-of-00003.safetensors"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def ported(begun: Service, models: Models) -> tuple[Service, Caller, str]:
    """A registry of one's own with a port that nobody has read."""
    acme = begun.caller("acme")
    acme.publish(acme.patch("acme", "tone"), models.patch)
    port = acme.port("acme/tone", "v1")["id"]
    begun.execute("DELETE FROM commits")  # as after an upgrade: the first request for a commit reads the files that it names
    return begun, acme, port


@pytest.mark.parametrize("path", [
    "/api/v1/ports/{port}/files", f"/api/v1/ports/{{port}}/files/{SHARD}", "/api/v1/ports/{port}/serving.json",
    f"/api/v1/patches/acme/tone/versions/1/files/{WEIGHTS}",
    f"/acme/tone/resolve/main/{WEIGHTS}", f"/acme/tone.merged/resolve/main/{SHARD}",
    "/api/models/acme/tone/revision/1@v1", "/api/models/acme/tone.merged/tree/main", "/api/models/acme/tone.merged/commits/main",
])  # fmt: skip
def test_read_holds_no_connection_while_it_reads_bytes(ported: tuple[Service, Caller, str], path: str) -> None:
    service, acme, port = ported
    with watched(service.runtime) as blobs:
        answer = acme("GET", path.format(port=port), whole=True)
        assert answer.status_code == 200, answer.text
    assert "read" in {operation for operation, _ in blobs.seen}, "the read of its bytes was seen"
    assert blobs.held() == []

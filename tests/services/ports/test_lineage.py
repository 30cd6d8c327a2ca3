"""The lineage gate: sampled once for a pair of releases, at most 64 MiB of each, refused unless forced with a reason."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from app.core.source import DirectorySource
from tests.support.files import factors, write_patch
from tests.support.fixtures import Models, World
from tests.support.models import continue_base, load_tensors
from tests.support.registry import Service, refused, unique

MIB = 2**20


def test_port_to_a_continuation_is_ready(world: World) -> None:
    """A release that continues the one trained on has cosines near 1, and says how far it drifted."""
    (finding,) = world.port["findings"]
    assert (finding["code"], finding["severity"]) == ("lineage.measured", "info")
    assert finding["data"]["cosine"] > 0.99
    assert finding["data"]["overall_drift"] == pytest.approx(0.01, rel=0.1)


def test_port_to_the_release_trained_on_is_not_compared(world: World) -> None:
    """Back to where it came from there is nothing to compare."""
    assert world.acme.port("acme/tone", "v1")["findings"] == []


def test_port_to_an_unrelated_release_is_refused_unless_forced(world: World) -> None:
    """Equal shapes and nothing else in common: refused; a reason forces it, and is kept."""
    body = {"patch": "acme/tone", "release": "alien"}
    port = world.acme.port("acme/tone", "alien")
    assert (port["state"], port["forced"], port["reason"]) == ("refused", False, None)
    (finding,) = port["findings"]
    assert (finding["code"], finding["severity"]) == ("lineage.unrelated", "refuse")
    assert abs(finding["data"]["cosine"]) < 0.2
    refused(world.acme.get(f"/ports/{port['id']}/files/config.json"), 409, "port.not_ready")
    for empty in ("", "   "):
        refused(world.acme.post("/ports", {**body, "force": empty}), 422, "port.force")
        refused(world.acme.post("/ports/check", {**body, "force": empty}), 422, "port.force")
    forced = world.acme.post("/ports", {**body, "force": "the weights were permuted"})
    assert forced.status_code == 201
    assert (forced.json()["state"], forced.json()["forced"]) == ("ready", True)
    assert forced.json()["reason"] == "the weights were permuted"
    assert forced.json()["findings"] == port["findings"]
    assert world.acme.get(f"/ports/{forced.json()['id']}/files/config.json").status_code == 200
    # The refusal stands beside it, for whoever asks without a reason.
    assert world.acme.port("acme/tone", "alien")["id"] == port["id"]
    event = next(e for e in world.acme.get("/events", limit=500).json()["items"] if e["subject"] == forced.json()["id"])
    assert event["data"]["forced"] is True


def test_port_to_a_distant_release_is_warned_about(world: World) -> None:
    """Far, but of one line: a warning."""
    name = unique("r")
    directory = continue_base(world.models.v1, world.service.place / name, drift=0.8)
    world.service.release("llama", name, directory)
    port = world.acme.port("acme/tone", name)
    assert port["state"] == "ready"
    assert [f["code"] for f in port["findings"] if f["severity"] == "warn"] == ["lineage.distant"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_port_to_a_release_with_weights_that_are_no_numbers_is_refused(world: World, value: float) -> None:
    """Weights that cannot be compared do not pass for related, and break no answer."""
    name = unique("r")
    directory = continue_base(world.models.v1, world.service.place / name)
    for shard in directory.glob("*.safetensors"):
        tensors, metadata = load_tensors(shard)
        for tensor in tensors.values():
            tensor.view(-1)[0] = torch.tensor(value)
        save_file(tensors, shard, metadata=metadata)
    assert world.service.release("llama", name, directory)["state"] == "ready"
    port = world.acme.port("acme/tone", name)
    assert port["state"] == "refused"
    assert "lineage.unrelated" in [f["code"] for f in port["findings"]]
    # Trained on it, there is nothing to compare with; what survives rounding is still a number.
    patch = world.patch()
    world.acme.publish(patch, world.models.patch, name)
    port = world.acme.port(patch, name)
    assert (port["state"], port["fidelity"]["overall"]) == ("ready", 0.0)
    assert [f["code"] for f in port["findings"]] == ["fidelity.low"]


def _samples(service: Service) -> list[tuple[str, str]]:
    return service.rows("SELECT old_manifest, new_manifest FROM lineage_samples")


def test_pair_of_releases_is_sampled_once(fresh: Callable[..., Service], models: Models, another: Callable[[], Path]) -> None:
    """What one check sampled is remembered for every patch: the old release is not read again, or needed."""
    service = fresh()
    admin = service.admin
    admin.family("llama")
    old = service.release("llama", "v1", continue_base(models.v1, service.place / "v1", drift=0.0))
    new = service.release("llama", "v2", models.v2)
    assert (old["state"], new["state"]) == ("ready", "ready")
    one, two = admin.patch("acme", "one"), admin.patch("acme", "two")
    admin.publish(one, models.patch)
    admin.publish(two, another())
    body = {"patch": one, "release": "v2"}
    first = admin.post("/ports/check", body).json()
    assert _samples(service) == [(old["manifest"], new["manifest"])]
    alien = service.release("llama", "alien", models.alien)
    refusal = admin.port(one, "alien")["findings"]
    assert set(_samples(service)) == {(old["manifest"], r["manifest"]) for r in (new, alien)}
    for file in (service.place / "v1").glob("*.safetensors"):
        file.unlink()
    assert admin.post("/ports/check", body).json() == first
    assert admin.port(one, "v2")["findings"] == first["findings"]
    assert admin.port(two, "v2")["findings"] == first["findings"]
    assert admin.port(two, "alien")["findings"] == refusal
    assert admin.port(one, "v2", recipe={"dtype": "float32"})["state"] == "ready"
    assert len(_samples(service)) == 2
    # Another pair is another sample, and that one cannot be made any more.
    service.release("llama", "v3", continue_base(models.v1, service.place / "v3", seed=3))
    refused(admin.post("/ports", {"patch": two, "release": "v3"}), 409, "checkpoint.changed")


def test_sample_reads_at_most_64_mib(fresh: Callable[..., Service], monkeypatch: pytest.MonkeyPatch) -> None:
    """Releases of 96 MiB: the sample stays within its bound, and so does the measure of fidelity."""
    service = fresh()
    admin = service.admin
    admin.family("llama")
    for name in ("v1", "v2"):
        release = service.release("llama", name, _sparse_base(service.place / name, gap=name == "v2"))
        assert release["state"] == "ready", release
    module = "model.layers.0.self_attn.q_proj"
    patch = write_patch(service.place / "patch", {module: factors((4096, 4096), 4, "F32", seed=3)})
    admin.publish(admin.patch("acme", "tone"), patch)
    counted = {"v1": 0, "v2": 0}
    read_into = DirectorySource.read_into

    def counting(self: DirectorySource, path: str, offset: int, buffer: memoryview) -> None:
        for name in counted:
            if self._root == service.place / name:
                counted[name] += len(buffer)
        read_into(self, path, offset, buffer)

    monkeypatch.setattr(DirectorySource, "read_into", counting)
    port = admin.port("acme/tone", "v2")
    (finding,) = (f for f in port["findings"] if f["code"].startswith("lineage."))
    assert 0 < finding["data"]["bytes_read"] <= 64 * MIB
    assert 0 < counted["v1"] <= 64 * MIB
    assert port["fidelity"]["sampled"]
    assert 0 < port["fidelity"]["bytes_read"] <= 64 * MIB
    assert counted["v2"] <= 64 * MIB + port["fidelity"]["bytes_read"]


def _sparse_base(path: Path, gap: bool) -> Path:
    """A base of large tensors, almost all zeros that take no room on the disk."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": False}))
    header, offset = {}, 0
    names = ["model.embed_tokens.weight", *(f"model.layers.{i}.self_attn.q_proj.weight" for i in range(2))]
    for name in names:
        header[name] = {"dtype": "BF16", "shape": [4096, 4096], "data_offsets": [offset, offset + 32 * MIB]}
        offset += 32 * MIB
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    with (path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        # The first row of every tensor holds ones, so that there is something to compare.
        for index in range(len(names)):
            file.seek(8 + len(text) + index * 32 * MIB)
            file.write(b"\x80\x3f" * 4096 if index or not gap else b"\x00\x40" * 4096)
        file.truncate(8 + len(text) + offset)
    return path

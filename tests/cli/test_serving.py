"""`portllm serving`: what it prints, and its exit code."""

import json
from pathlib import Path

import pytest

from tests.live.service import Service, invoke


@pytest.fixture(scope="module")
def ported(service: Service, models: Path) -> dict[str, str]:
    """Ids of ports of serve/tone: on v2, ready; on v1 of another family's shapes, refused."""
    ids = {}
    for command in (
        ["release", "add", "serve", "v1", "--from", models / "v1", "--wait"],
        ["release", "add", "serve", "v2", "--from", models / "v2", "--wait"],
        ["release", "add", "serve", "wide", "--from", models / "wide", "--wait"],
        ["patch", "push", "serve/tone", models / "patch", "--family", "serve", "--trained-on", "v1"],
    ):
        done = invoke(*command, **service.variables())
        assert done.exit_code == 0, done.output
    for release in ("v2", "wide"):
        done = invoke("port", "serve/tone", "--to", release, "--json", **service.variables())
        ids[release] = json.loads(done.stdout)["id"]
    return ids


def test_a_port_by_name_or_id_as_json(service: Service, ported: dict[str, str]) -> None:
    """The document as the registry gives it; exit code 0: some engine can serve it."""
    env = service.variables()
    by_name = invoke("serving", "serve/tone", "--on", "v2", "--json", **env)
    by_id = invoke("serving", ported["v2"], "--json", **env)
    assert (by_name.exit_code, by_id.exit_code) == (0, 0), by_name.output
    assert json.loads(by_name.stdout) == json.loads(by_id.stdout)
    assert json.loads(by_id.stdout)["recommended"] == "vllm-adapter"


def test_people_get_tables_and_commands_to_copy(service: Service, ported: dict[str, str]) -> None:
    done = invoke("serving", "serve/tone", "--on", "v2", **service.variables())
    assert done.exit_code == 0, done.output
    assert "serving.no_adapters" in done.stdout
    assert 'export PORTLLM_VLLM_BASE="base/serve@v2"' in done.stdout
    assert "  vllm serve base/serve --revision v2 --dtype bfloat16 --enable-lora --max-lora-rank 8\n" in done.stdout


def test_what_no_engine_can_serve_ends_with_1(service: Service, ported: dict[str, str]) -> None:
    """And says why."""
    done = invoke("serving", ported["wide"], **service.variables())
    assert done.exit_code == 1
    assert "serving.port_state" in done.stdout
    assert "vllm serve" not in done.stdout


def test_a_name_needs_a_release(service: Service, ported: dict[str, str]) -> None:
    done = invoke("serving", "serve/tone", "--json", **service.variables())
    assert (done.exit_code, json.loads(done.stdout)["error"]["code"]) == (2, "client.release")

"""`portllm serving`, `digest` and `show`: what they print, and their exit codes."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.service_process import Service, invoke


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
    assert "  export PORTLLM_VLLM_BASE=base/serve@v2\n" in done.stdout
    assert '  export HF_ENDPOINT="$PORTLLM_URL"\n' in done.stdout
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


def test_the_digests_of_a_merged_model(service: Service, ported: dict[str, str], models: Path, tmp_path: Path) -> None:
    """As `sha256sum --check` reads them, and as those of the same merge made here."""
    told = invoke("digest", "serve/tone", "--on", "v2", **service.variables())
    assert told.exit_code == 0, told.output
    assert invoke("merge", models / "v2", models / "patch", tmp_path / "out").exit_code == 0
    (tmp_path / "SUMS").write_text(told.stdout)
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "../SUMS"], cwd=tmp_path / "out", capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
    assert told.stdout.count("\n") == sum(1 for p in (tmp_path / "out").rglob("*") if p.is_file())
    again = json.loads(invoke("digest", ported["v2"], "--json", **service.variables()).stdout)
    assert again["port"]["digested"]
    assert {f["sha256"] for f in again["files"]} == {line.split()[0] for line in told.stdout.splitlines()}


def test_a_port_is_shown_with_its_reasons(service: Service, ported: dict[str, str]) -> None:
    refused = invoke("show", ported["wide"], **service.variables())
    assert refused.exit_code == 0, refused.output
    assert "serve/tone version 1 on wide: refused." in refused.stdout
    assert "port.shape" in refused.stdout
    shown = json.loads(invoke("show", ported["v2"], "--json", **service.variables()).stdout)
    assert (shown["release"], shown["state"], shown["materialisations"]) == ("v2", "ready", [])


def test_a_release_is_shown(service: Service, ported: dict[str, str]) -> None:
    shown = invoke("release", "show", "serve", "v2", **service.variables())
    assert shown.exit_code == 0, shown.output
    assert all(word in shown.stdout for word in ("serve/v2", "ready", "llama"))
    assert json.loads(invoke("release", "show", "serve", "v2", "--json", **service.variables()).stdout)["state"] == "ready"
    none = invoke("release", "show", "serve", "v9", **service.variables())
    assert (none.exit_code, "[release.unknown]" in none.stderr) == (1, True)

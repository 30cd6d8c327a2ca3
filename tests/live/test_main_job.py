"""The main job through `portllm` as a process, in the forms that scripts may rely on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.merging import digests
from tests.support.service_process import Service, invoke, run

TEXT = "The patch is carried to the next release."


def test_main_job_as_text(service: Service, models: Path, tmp_path: Path) -> None:
    """Register two releases, publish, port, pull, list and show: each says what it did and ends with 0."""
    told = _main_job(service, models, tmp_path, "text", [])
    assert told["add v1"] == "text/v1 is ready.\n"
    assert told["add v2"] == "text/v2 is ready.\n"
    assert told["push"].startswith("text/tone version 1, trained on v1,")
    assert "text/tone version 1 on v2: ready." in told["port"]
    assert "lineage.measured" in told["port"]
    assert "Merge fidelity" in told["port"]
    assert "Fingerprint " in told["port"]
    assert ", verified." in told["pull"]
    for noun, word in {"families": "text", "releases": "v2", "patches": "tone", "ports": "ready"}.items():
        assert word in told[f"ls {noun}"]
    assert "text/tone of family text" in told["show"]


def test_main_job_as_json_and_its_model(service: Service, models: Path, tmp_path: Path) -> None:
    """Every form prints one JSON document; the pulled directory loads and computes what PEFT computes on the same release."""
    told = {verb: json.loads(text) for verb, text in _main_job(service, models, tmp_path, "json", ["--json"]).items()}
    assert [told[verb]["state"] for verb in ("add v1", "add v2", "push", "port")] == ["ready", "ready", "published", "ready"]
    assert told["add v2"]["parent"] == "v1"
    assert (told["push"]["number"], told["push"]["trained_on"]) == (1, "v1")
    assert {"id", "state", "findings", "fidelity", "fingerprint"} <= told["port"].keys()
    assert told["port"]["fidelity"]["overall"] > 0.9
    assert told["pull"]["verified"] is True
    assert all(file["sha256"] for file in told["pull"]["files"])
    assert "json" in [row["name"] for row in told["ls families"]]
    assert {"v1", "v2"} <= {row["name"] for row in told["ls releases"] if row["family"] == "json"}
    assert ("json", "tone") in [(row["owner"], row["name"]) for row in told["ls patches"]]
    assert told["port"]["id"] in [row["id"] for row in told["ls ports"]]
    assert [(v["number"], v["state"]) for v in told["show"]["versions"]] == [(1, "published")]
    assert [p["id"] for p in told["show"]["ports"]] == [told["port"]["id"]]

    merged = run("merge", models / "v2", models / "patch", tmp_path / "merged")
    assert merged.returncode == 0, merged.stderr
    assert digests(tmp_path / "out") == digests(tmp_path / "merged")
    _check_logits(models / "v2", models / "patch", tmp_path / "out")


def test_refused_and_held_end_with_1_and_tell_why(service: Service, models: Path) -> None:
    """A release that does not continue the old one is refused, a patch of unknown origin is held until it is approved."""
    env = service.variables()
    for name in ("v1", "stranger"):
        assert invoke("release", "add", "gate", name, "--from", models / name, "--wait", **env).exit_code == 0
    for name, trained_on in (("gate/known", "v1"), ("gate/unknown", "unknown")):
        pushed = invoke("patch", "push", name, models / "patch", "--family", "gate", "--trained-on", trained_on, **env)
        assert pushed.exit_code == 0, pushed.stderr
    refused = invoke("port", "gate/known", "--to", "stranger", "--json", **env)
    assert refused.exit_code == 1
    row = json.loads(refused.stdout)
    assert row["state"] == "refused"
    assert ("lineage.unrelated", "refuse") in [(f["code"], f["severity"]) for f in row["findings"]]
    assert "lineage.unrelated" in invoke("port", "gate/known", "--to", "stranger", **env).stdout
    assert invoke("port", "gate/known", "--to", "stranger", "--force", "it is a test", **env).exit_code == 0

    held = invoke("port", "gate/unknown", "--to", "v1", "--json", **env)
    assert held.exit_code == 1
    assert json.loads(held.stdout)["state"] == "held"
    approved = invoke("approve", json.loads(held.stdout)["id"], "--reason", "I know it", **env)
    assert approved.exit_code == 0
    assert "is ready." in approved.stdout


@pytest.mark.parametrize("form", [["--json"], []])
def test_rejected_release_ends_with_1_and_says_why(service: Service, models: Path, form: list[str]) -> None:
    """A directory that is no usable release: the reason comes from the job, through --wait, to the shell."""
    broken = service.root / "releases" / f"broken{len(form)}"
    broken.mkdir()
    (broken / "config.json").write_text((models / "v1/config.json").read_text())
    (broken / "pytorch_model.bin").write_bytes(b"\x80\x02")
    added = invoke("release", "add", "bad", f"r{len(form)}", "--from", broken, "--wait", *form, **service.variables())
    assert added.exit_code == 1
    assert "[checkpoint.no_weights]" in added.stderr
    if form:
        row = json.loads(added.stdout)
        assert (row["state"], row["problem"]["code"]) == ("rejected", "checkpoint.no_weights")


def test_wrong_usage_ends_with_2(service: Service, models: Path, tmp_path: Path) -> None:
    """Scripts can tell a mistake in the call from a refusal."""
    env = service.variables()
    wrong: list[list[Any]] = [
        ["release", "add", "f", "v1"], ["patch", "push", "a/b", tmp_path / "none", "--family", "f", "--trained-on", "v1"],
        ["port", "a/b"], ["pull", "a/b", "out"], ["ls", "nonsense"], ["show", "no-slash"], ["nonsense"], ["serve", "--port", "x"],
    ]  # fmt: skip
    for arguments in wrong:
        assert invoke(*arguments, **env).exit_code == 2, arguments
    as_process = run(*wrong[0], **env)
    assert as_process.returncode == 2
    assert "Missing option '--from'" in as_process.stderr


def _main_job(service: Service, models: Path, tmp_path: Path, family: str, form: list[str]) -> dict[str, str]:
    patch, env = f"{family}/tone", service.variables()
    commands: dict[str, list[Any]] = {
        "add v1": ["release", "add", family, "v1", "--from", models / "v1", "--wait"],
        "add v2": ["release", "add", family, "v2", "--from", models / "v2", "--parent", "v1", "--wait"],
        "push": ["patch", "push", patch, models / "patch", "--family", family, "--trained-on", "v1"],
        "port": ["port", patch, "--to", "v2"],
        "pull": ["pull", patch, "--on", "v2", tmp_path / "out"],
        **{f"ls {noun}": ["ls", noun] for noun in ("families", "releases", "patches", "ports")},
        "show": ["show", patch],
    }
    told = {}
    for verb, arguments in commands.items():
        ended = run(*arguments, *form, **env)
        assert ended.returncode == 0, (verb, ended.stdout, ended.stderr)
        assert not ended.stderr, (verb, ended.stderr)
        told[verb] = ended.stdout
    return told


def _check_logits(release: Path, patch: Path, pulled: Path) -> None:
    inputs = AutoTokenizer.from_pretrained(pulled)(TEXT, return_tensors="pt")
    base = AutoModelForCausalLM.from_pretrained(release)
    with torch.no_grad():
        ours = AutoModelForCausalLM.from_pretrained(pulled)(**inputs).logits
        unpatched = base(**inputs).logits
        peft = PeftModel.from_pretrained(base, patch)(**inputs).logits
    torch.testing.assert_close(ours, peft, rtol=1e-4, atol=1e-4)
    assert float((ours - unpatched).abs().max()) > 0.05, "the patch has no effect, so the comparison proves nothing"

"""The bill of materials: valid by CycloneDX's schema, of what the image holds and of nothing else."""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from requirements.audit import canonical, locked
from tests.support.paths import ROOT

PYTHONS_OWN = "pkg:pypi/"


def written(file: Path, *arguments: str) -> dict[str, Any]:
    """What docker/sbom.py writes."""
    command = [sys.executable, "docker/sbom.py", str(file), *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return dict(json.loads(file.read_text()))


@pytest.fixture(scope="module")
def bill(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return written(tmp_path_factory.mktemp("sbom") / "new" / "sbom.cdx.json")


def without_addresses(component: dict[str, Any]) -> dict[str, Any]:
    return {key: worth for key, worth in component.items() if key != "externalReferences"}


def _faults(bill: dict[str, Any]) -> Any:
    """What the schema says against it; its libraries take seconds to import."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill))


def test_it_is_valid(bill: dict[str, Any]) -> None:
    """By the strict schema, which knows every field. One address is parsed in a tenth of a second, so most are left out."""
    components = [each if each["name"] == "torch" else without_addresses(each) for each in bill["components"]]
    shorter = bill | {"components": components, "metadata": bill["metadata"] | {"tools": {}}}
    assert _faults(shorter) is None
    assert _faults(shorter | {"components": [*components, {"type": "library"}]}) is not None


def test_it_names_what_runs(bill: dict[str, Any]) -> None:
    """Every distribution that the service imports, with version and package URL; no tool of tests."""
    named = {canonical(each["name"]): each for each in bill["components"]}
    assert named.keys() <= locked("runtime") | locked("torch")
    assert {"torch", "fastapi", "psycopg-binary", "sqlalchemy"} <= named.keys()
    assert named["psycopg"]["licenses"][0]["license"]["id"] == "LGPL-3.0-only"
    assert all(each["purl"].startswith(f"{PYTHONS_OWN}{name}@") for name, each in named.items())
    assert bill["metadata"]["component"]["name"] == "portllm-registry"


def test_edges_meet_components(bill: dict[str, Any]) -> None:
    """The project needs its dependencies, and nothing needs what is not listed."""
    there = {each["bom-ref"] for each in bill["components"]} | {bill["metadata"]["component"]["bom-ref"]}
    edges = {each["ref"]: each.get("dependsOn", []) for each in bill["dependencies"]}
    assert edges.keys() == there
    assert {ref for refs in edges.values() for ref in refs} <= there
    assert any(ref.startswith("fastapi==") for ref in edges[bill["metadata"]["component"]["bom-ref"]])


@pytest.mark.skipif(not shutil.which("dpkg-query"), reason="lists Debian's packages, and this system is another")
def test_of_an_image_it_names_the_system_too(tmp_path: Path) -> None:
    """As docker/Dockerfile asks for it: the interpreter, and Debian's packages with versions that scanners look up."""
    bill = written(tmp_path / "sbom.cdx.json", sys.executable)
    system = [each for each in bill["components"] if not each["purl"].startswith(PYTHONS_OWN)]
    assert {"python", "libc6", "base-files"} <= {each["name"] for each in system}
    assert {each["version"] for each in system if each["name"] == "python"} == {platform.python_version()}
    refs = [each["bom-ref"] for each in bill["components"]]
    assert len(refs) == len(set(refs))
    few = bill | {"components": [each for each in system if each["name"] in {"python", "libc6"}], "dependencies": []}
    assert _faults(few) is None

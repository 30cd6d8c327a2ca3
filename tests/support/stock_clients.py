"""Runs stock clients: scripts in processes of their own, with nothing in their environment but an endpoint and a token."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.service_process import environment

SCRIPTS = Path(__file__).parent / "hub_scripts"
# The proxies of whoever runs the tests would be asked for 127.0.0.1 too.
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@dataclass(frozen=True)
class Clients:
    """Clients of one endpoint, with one cache.

    Attributes:
        python: of the environment that holds the libraries.
    """

    endpoint: str
    token: str
    home: Path
    python: str = sys.executable

    def start(self, *command: str, **variables: str) -> "subprocess.Popen[str]":
        mine = {name: value for name, value in environment().items() if not name.startswith("HF_") and name not in PROXIES}
        mine |= {
            "HF_ENDPOINT": self.endpoint, "HF_TOKEN": self.token, "HF_HOME": str(self.home), "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **variables,
        }  # fmt: skip
        mine.pop("PYTHONPATH", None)
        return subprocess.Popen(command, env=mine, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=SCRIPTS)

    def script(self, name: str, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        return self.start(self.python, str(SCRIPTS / f"{name}.py"), *arguments, **variables)

    def run(self, name: str, *arguments: str, seconds: float = 240, **variables: str) -> dict[str, Any]:
        """Runs a script to its end; what it saw."""
        return seen(self.script(name, *arguments, **variables), seconds)


def seen(process: "subprocess.Popen[str]", seconds: float = 240) -> dict[str, Any]:
    """The last line that a script prints."""
    try:
        out, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, errors = process.communicate()
        raise AssertionError(f"not within {seconds} s: {errors[-3000:]}") from None
    assert process.returncode == 0, errors[-5000:]
    return dict(json.loads(out.splitlines()[-1]))

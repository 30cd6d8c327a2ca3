"""What the tests of pushes share: a registry that stock clients push to, and those clients as processes of their own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support.files import raw_file
from tests.support.service_process import Service, run

# What the Trainer leaves beside the adapter.
TRAINERS = ("training_args.bin", "trainer_state.json", "checkpoint-7/optimizer.pt", "checkpoint-7/adapter_model.safetensors")


@dataclass
class Registry:
    """A running registry: families llama (v1, seen by everybody) and others; acme and rival may publish."""

    service: Service
    models: Path
    home: Path
    tokens: dict[str, str] = field(default_factory=dict)
    count: int = 0

    def token(self, owner: str, *scopes: str) -> str:
        """A token of an owner's, made once for each set of scopes."""
        key = " ".join((owner, *scopes))
        if key not in self.tokens:
            with self.service.client() as admin:
                made = admin.post("/tokens", json={"owner": owner, "scopes": list(scopes or ("read", "publish"))})
            assert made.status_code == 201, made.text
            self.tokens[key] = made.json()["token"]
        return self.tokens[key]

    def caller(self, owner: str = "acme") -> httpx.Client:
        """A client of the API, or with paths from the root of the Hub protocol."""
        headers = {"Authorization": f"Bearer {self.token(owner)}"}
        return httpx.Client(base_url=self.service.url, headers=headers, timeout=60)

    def name(self) -> str:
        """A repository that no other test uses."""
        self.count += 1
        return f"acme/patch{self.count}"

    def environment(self, token: str, **more: str) -> dict[str, str]:
        """Nothing but the endpoint and a token; a home of its own for what clients remember."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PORTLLM_"))}
        return {**mine, "HF_ENDPOINT": self.service.url, "HF_TOKEN": token, "HF_HOME": str(self.home), **more}

    def python(
        self, code: str, owner: str = "acme", token: str | None = None, interpreter: str = sys.executable, **more: str
    ) -> "Outcome":
        """Runs a script with `api`, a stock HfApi, and `said`, a function that prints an error as JSON.

        `interpreter`: of the environment whose clients are used.
        """
        script = f"{PRELUDE}\n{code}"
        ran = subprocess.run(
            [interpreter, "-c", script], env=self.environment(token or self.token(owner), **more), capture_output=True,
            text=True, timeout=180, check=False,
        )  # fmt: skip
        return Outcome(ran)

    def hf(self, *arguments: str | Path, token: str | None = None, **more: str) -> "Outcome":
        """Runs the `hf` command."""
        code = f"import sys; sys.argv = ['hf', *{list(map(str, arguments))!r}]; from huggingface_hub.cli.hf import main; main()"
        ran = subprocess.run(
            [sys.executable, "-c", code], env=self.environment(token or self.token("acme"), **more), capture_output=True,
            text=True, timeout=180, check=False,
        )  # fmt: skip
        return Outcome(ran)

    def portllm(self, *arguments: str, owner: str = "acme") -> dict[str, Any]:
        """A verb with --json, as an owner; what it printed."""
        variables = {"PORTLLM_URL": self.service.url, "PORTLLM_TOKEN": self.token(owner)}
        return dict(json.loads(run(*arguments, "--json", **variables).stdout))

    def versions(self, name: str) -> list[dict[str, Any]]:
        """The published versions of a patch, newest first; none where there is no patch."""
        with self.service.client() as admin:
            found = admin.get(f"/patches/{name}/versions")
        return list(found.json()["items"]) if found.status_code == 200 else []

    def used(self, owner: str = "acme") -> dict[str, int]:
        with self.service.client() as admin:
            shown = admin.get(f"/owners/{owner}/usage").json()
        return {kind: amount["used"] for kind, amount in shown.items() if kind != "owner"}


PRELUDE = """
import json, sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError
api = HfApi()
def said(act, *arguments, **named):
    try:
        act(*arguments, **named)
    except HfHubHTTPError as error:
        code = error.response.json().get("code") if error.response.content else None
        print(json.dumps({"status": error.response.status_code, "message": str(error), "code": code}))
    else:
        print(json.dumps({"status": 200, "message": "", "code": None}))
def tell(value):
    print(json.dumps(value))
"""


class Outcome:
    """What a process printed and how it ended."""

    def __init__(self, ran: subprocess.CompletedProcess[str]) -> None:
        self.code, self.output, self.errors = ran.returncode, ran.stdout, ran.stderr

    def good(self) -> "Outcome":
        assert self.code == 0, self.output + self.errors
        return self

    @property
    def told(self) -> list[Any]:
        """Lines that are JSON."""
        self.good()
        return [json.loads(line) for line in self.output.splitlines() if line.startswith(("{", "[", '"'))]


@contextmanager
def registry(root: Path, models: Path, **variables: str) -> Iterator[Registry]:
    """A registry of one's own with release llama/v1, where acme calls the directory that the patch names `llama/v1` too."""
    service = Service(root / "service", models, **variables).start()
    try:
        with service.client() as admin:
            assert admin.post("/families", json={"name": "llama", "readers": ["*"]}).status_code == 201
            registered = admin.post("/families/llama/releases", json={"name": "v1", "directory": str(models / "v1")})
            assert registered.status_code == 202, registered.text
            ready(service, "llama", "v1")
            named = admin.post("/families/llama/aliases", json={"name": str(models / "v1"), "release": "v1"})
            assert named.status_code == 201, named.text
        yield Registry(service, models, root / "home")
    finally:
        service.kill()


def ready(service: Service, family: str, release: str) -> dict[str, Any]:
    """Waits until a release is read; as it then is."""
    from tests.support.service_process import until

    def ended() -> dict[str, Any] | None:
        with service.client() as admin:
            row = admin.get(f"/families/{family}/releases/{release}").json()
        return row if row.get("state") in ("ready", "rejected") else None

    return until(ended) or {}


def trained(models: Path, to: Path, base: str | None = None, revision: str | None = None, card: str = "") -> Path:
    """A directory as the Trainer leaves it: the patch, a card, and much that belongs to no patch.

    Args:
        models: where the patch lies.
        to: the directory to write.
        base: what adapter_config.json names as its base; the directory that it was trained on by default.
        revision: of it.
        card: what tells one from another.
    """
    shutil.copytree(models / "patch", to)
    config = json.loads((to / "adapter_config.json").read_text())
    config |= {} if base is None else {"base_model_name_or_path": base}
    (to / "adapter_config.json").write_text(json.dumps({**config, "revision": revision}))
    (to / "README.md").write_text(f"---\nlicense: mit\nlibrary_name: peft\n---\n# {card or to.name}\n")
    for path in TRAINERS:
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        (to / path).write_bytes(b"left over " * 300)
    return to


def spoiled(directory: Path) -> Path:
    """Makes the weights of a patch ones that no base has."""
    header = {
        "base_model.model.model.layers.99.mlp.up_proj.lora_A.weight": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}
    }
    (directory / "adapter_model.safetensors").write_bytes(raw_file(header) + bytes(4))
    return directory

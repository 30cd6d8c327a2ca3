"""docker-compose.yml without containers: its services run as processes of this machine.

Only what the network and the volumes of containers would give is replaced: a name and port by a free port on loopback,
a volume by a directory. Commands, environment, order of start and health checks are the file's own; where Linux lets us, our
services run confined as the file says (`tests.support.confined`).
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import yaml

from tests.support.confined import command_line, is_possible
from tests.support.paths import ROOT
from tests.support.postgres import binaries, own_server
from tests.support.s3 import free_ports
from tests.support.service_process import until

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"  # noqa: S104  what the file says, not what is listened on
HEALTHY_SECONDS = 120
# ${NAME}, ${NAME:-default}, ${NAME:?why it is needed}, and $$ for a dollar.
VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?::(?P<mark>[-?])(?P<rest>[^}]*))?\})")
OURS = "portllm-registry"


def read(file: Path, variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The services of a compose file, with their variables filled in.

    Raises:
        LookupError: one that must be given is not, or is empty.
    """

    def value(found: re.Match[str]) -> str:
        name, mark, rest = found["name"], found["mark"], found["rest"]
        if name is None:
            return "$"
        if mark == "?" and not variables.get(name):
            raise LookupError(f"{name}: {rest}")
        return variables.get(name) or (rest if mark == "-" else "")

    def filled(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: filled(inner) for key, inner in node.items()}
        if isinstance(node, list):
            return [filled(inner) for inner in node]
        return VARIABLE.sub(value, node) if isinstance(node, str) else node

    return dict(filled(yaml.safe_load(file.read_text())["services"]))


def mounted(volume: str | dict[str, Any]) -> tuple[str, str, bool]:
    """Returns the source and the target of a volume in either form, and whether it is mounted read-only."""
    if isinstance(volume, dict):
        return volume["source"], volume["target"], volume.get("read_only", False)
    source, inside = volume.removesuffix(":ro").rsplit(":", 1)
    return source, inside, volume.endswith(":ro")


def image_environment() -> dict[str, str]:
    """What docker/Dockerfile sets for every process of the image, but for its PATH."""
    lines = [line for line in (ROOT / "docker/Dockerfile").read_text().splitlines() if line.startswith("ENV ")]
    pairs = [pair.partition("=") for pair in shlex.split(lines[-1])[1:]]
    return {name: worth for name, _, worth in pairs if name != "PATH"}


class Installation:
    """The services of a compose file as processes.

    Args:
        root: a directory for volumes, homes and output.
        services: of `read`.
        binds: directories of this machine by what the file calls them.
    """

    def __init__(self, root: Path, services: dict[str, dict[str, Any]], binds: Mapping[str, Path]) -> None:
        self.root, self.services, self._volumes = root, services, dict(binds)
        free = iter(free_ports(20))
        self._ports = defaultdict[tuple[str, int], int](lambda: next(free))
        self._stack = ExitStack()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._begun, self._healthy = set[str](), set[str]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        self._stack.close()

    # -- what `docker compose up --wait` does

    def up(self, *names: str) -> None:
        """Starts services and those that they depend on, when these are as far as they must be, and waits for their health."""
        for name in names:
            self._begin(name)
        for name in names:
            self._await_health(name)

    def down(self, *names: str) -> dict[str, tuple[int, float]]:
        """SIGTERM to all; exit codes, and the seconds that each took. Fails for one that takes longer than it may."""
        began = time.monotonic()
        for name in names:
            self.processes[name].send_signal(signal.SIGTERM)
        ended = {}
        for name in names:
            grace = float(self.services[name]["stop_grace_period"].removesuffix("s"))
            code = self.processes[name].wait(max(0.0, grace - (time.monotonic() - began)))
            ended[name] = (code, time.monotonic() - began)
        return ended

    def run(self, name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """What `docker compose run --rm NAME ARGUMENTS` does."""
        command, environment = self._ours(list(arguments)), self.environment(name) | variables
        cwd = self._directory(f"{name}-cwd")
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False, cwd=cwd)

    # -- what a service is here

    def address(self, name: str, port: int) -> str:
        """Where a port of a service is."""
        return f"{LOOPBACK}:{self._ports[name, port]}"

    def volume(self, name: str, path: str) -> Path:
        """The directory that a service has at a path."""
        return self._mounts(name)[path]

    def command(self, name: str) -> list[str]:
        given = self.services[name]["command"]
        here = [self._here(name, part) for part in given]
        if "--port" in given:
            place = given.index("--port") + 1
            here[place] = str(self._ports[name, int(given[place])])
        return here

    def environment(self, name: str) -> dict[str, str]:
        """The file's and the image's, and nothing of this process's."""
        given = {key: self._here(name, str(worth)) for key, worth in self.services[name]["environment"].items()}
        image = image_environment() if self._is_ours(name) else {}
        home, scratch = self._directory(f"{name}-home"), self._directory(f"{name}-tmp")
        own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(home), "TMPDIR": str(scratch)}
        return own | image | given

    def output(self, name: str) -> str:
        return (self.root / f"{name}.txt").read_text()

    def home(self, name: str) -> Path:
        return self._directory(f"{name}-home")

    def _directory(self, name: str) -> Path:
        directory = self.root / name
        directory.mkdir(exist_ok=True)
        return directory

    def _is_ours(self, name: str) -> bool:
        return str(self.services[name]["image"]).startswith(OURS)

    def _mounts(self, name: str) -> dict[str, Path]:
        """Directories by where a container has them."""
        found = {}
        for source, inside, _ in map(mounted, self.services[name].get("volumes", ())):
            found[inside] = self._volumes.get(source) or self._directory(f"volume-{source}")
        return found

    def _here(self, name: str, given: str) -> str:
        """An argument or a value as it reads outside of containers."""

        def where(found: re.Match[str]) -> str:
            service = found["service"] if found["service"] in self.services else name
            return self.address(service, int(found["port"]))

        services = "|".join(map(re.escape, self.services))
        given = re.sub(rf"(?:(?<=[/@])(?P<service>{services})|0\.0\.0\.0|127\.0\.0\.1):(?P<port>\d+)", where, given)
        given = LOOPBACK if given == EVERYWHERE else given
        for inside, directory in self._mounts(name).items():
            given = re.sub(rf"(?<![\w./-]){re.escape(inside)}(?![\w-])", str(directory), given)
        return given

    # -- starting

    def _begin(self, name: str) -> None:
        if name in self._begun:
            return
        self._begun.add(name)
        conditions = self.services[name].get("depends_on", {})
        for other in conditions:
            self._begin(other)
        for other, how in conditions.items():
            if how["condition"] == "service_completed_successfully":
                assert self.processes[other].wait(HEALTHY_SECONDS) == 0, self.output(other)
            else:
                self._await_health(other)
        if self._is_ours(name):
            self._start(name, self._confined(name, self._ours(self.command(name))))
        else:
            {"postgres": self._start_postgres, "s3": self._start_s3}[name]()

    def _start(self, name: str, command: list[str]) -> None:
        with (self.root / f"{name}.txt").open("wb") as out:
            cwd = self._directory(f"{name}-cwd")
            self.processes[name] = subprocess.Popen(command, stdout=out, stderr=out, env=self.environment(name), cwd=cwd)

    def _ours(self, arguments: list[str]) -> list[str]:
        """The image's entry point, `portllm`, by this Python."""
        return [sys.executable, "-m", "app.cli.main", *arguments]

    def _confined(self, name: str, command: list[str]) -> list[str]:
        """A command that may write where its container could, where this machine can see to that."""
        own = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"], "tmpfs": ["/tmp"]}  # noqa: S108  a container's
        assert self.services[name] | own == self.services[name], (
            f"{name} is confined otherwise, and this is not what happens here"
        )
        mounts = map(mounted, self.services[name].get("volumes", ()))
        given = [inside for _, inside, is_read_only in mounts if not is_read_only]
        # Where the image works, /data, is always a volume.
        writable = [*(self._mounts(name)[inside] for inside in given), self._directory(f"{name}-cwd")]
        return command_line(command, self._directory(f"{name}-tmp"), writable) if is_possible() else command

    def _start_postgres(self) -> None:
        """A server with the user and the database that the image would make; it asks for the password."""
        wanted = self.services["postgres"]["environment"]
        server = self._stack.enter_context(own_server(self._ports["postgres", 5432]))
        user, database = wanted["POSTGRES_USER"], wanted["POSTGRES_DB"]
        server.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{wanted['POSTGRES_PASSWORD']}'")
        server.execute(f"CREATE DATABASE {database} OWNER {user}")

    def _start_s3(self) -> None:
        """By the file's command; ports that only its own parts use are chosen here, not to meet those of others."""
        own = {f"{part}.port": self._ports["s3", number] for number, part in enumerate(("master", "volume", "filer", "admin"))}
        own |= {"s3.port": self._ports["s3", 8333], "metricsPort": 0}
        options = [f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}", *(f"-{option}={port}" for option, port in own.items())]
        self._start("s3", [str(Path(sys.executable).with_name("weed")), *self.command("s3"), *options])

    # -- health

    def _await_health(self, name: str) -> None:
        def healthy() -> bool:
            process = self.processes.get(name)
            assert process is None or process.poll() is None, f"{name} ended: {self.output(name)}"
            return self.is_healthy(name)

        if name not in self._healthy:
            until(healthy, HEALTHY_SECONDS, every=0.2)
            self._healthy.add(name)

    def health_command(self, name: str) -> list[str]:
        """A service's health check with the programs of this machine."""
        kind, program, *arguments = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        arguments = [self._here(name, argument) for argument in arguments]
        if program == "pg_isready":
            return [str(binaries() / program), *arguments, f"--port={self._ports[name, 5432]}"]
        assert program in {"healthy", "wget"}  # not every machine has the latter, and `healthy` asks the same
        return [sys.executable, str(ROOT / "docker/healthy.py"), arguments[-1]]

    def is_healthy(self, name: str) -> bool:
        return subprocess.run(self.health_command(name), capture_output=True, check=False).returncode == 0

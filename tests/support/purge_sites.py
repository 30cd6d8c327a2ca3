"""Registries to purge in: on SQLite with a directory, and on PostgreSQL with S3; merged models are written to S3 in both."""

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.domain.principal import ROLES
from app.services.operations.fsck import check
from app.services.operations.fsck.troubles import Trouble
from tests.support.fixtures import Models
from tests.support.models import Shelf
from tests.support.registry import Caller, Service, unique
from tests.support.s3 import S3Server
from tests.support.uploads import with_card

WHY = {"reason": "the customer asked"}
_seeds = itertools.count(100)


@dataclass
class PurgeSite:
    """A registry with family llama and its releases v1 and v2, and where its merged models go."""

    service: Service
    s3: S3Server
    bucket: str
    operator: Caller
    fresh_patch: Callable[[], Path]

    def published(self, directory: Path | None = None, owner: str = "acme") -> str:
        """A new patch with one version; its name."""
        patch = self.service.admin.patch(owner, unique("patch"))
        self.service.admin.publish(patch, directory or self.fresh_patch())
        return patch

    def purge(self, patch: str, number: int = 1) -> dict[str, Any]:
        answer = self.operator.post(f"/patches/{patch}/versions/{number}/purge", WHY)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def written(self, port: str, target: str = "") -> dict[str, Any]:
        """Asks for a merged model at a place, and writes it there as a worker does."""
        to = target or f"s3://{self.bucket}/exports/{unique('m')}"
        row = self.service.admin.post(f"/ports/{port}/materialise", {"to": to}).json()
        self.service.run_job(row["job"], "materialise")
        self.service.runtime.tools.jobs.forget(row["job"])
        return dict(self.service.admin.get(f"/materialisations/{row['id']}").json())

    def objects(self, target: str) -> dict[str, int]:
        return self.s3.objects(self.bucket, target.removeprefix(f"s3://{self.bucket}/") + "/")

    def is_there(self, digest: str) -> bool:
        return self.service.runtime.tools.blobs.size(digest) is not None

    def troubles(self) -> list[Trouble]:
        return [found for found in check.check(self.service.runtime, True, lambda *_: None) if isinstance(found, Trouble)]


@contextmanager
def opened(
    registries: Callable[..., Service], models: Models, shelf: Shelf, s3: S3Server, through: str = "", **settings: Any
) -> Iterator[PurgeSite]:
    """A registry that runs.

    Args:
        registries, models, shelf, s3: fixtures.
        through: what stands before S3, for the registry alone.
        settings: of the registry; `in_s3`: its blobs lie there too.
    """
    bucket = s3.bucket()
    if settings.pop("in_s3", False):
        settings["blobs"] = f"s3://{bucket}/registry"
    with pytest.MonkeyPatch.context() as patched:
        for name, value in s3.environment(through).items():
            patched.setenv(name, value)
        with registries(allow_s3=[f"s3://{bucket}/exports"], **settings).running() as service:
            service.admin.family("llama")
            for name, directory in (("v1", models.v1), ("v2", models.v2)):
                service.release("llama", name, directory)
            operator = service.caller("acme", *ROLES["operator"])
            yield PurgeSite(service, s3, bucket, operator, lambda: unshared(shelf.patch(models.v1, seed=next(_seeds))))


def unshared(patch: Path) -> Path:
    """A copy of a patch that shares no file with another: PEFT writes the same card and configuration again and again."""
    out = with_card(patch, patch.with_name(unique("unshared")), unique("card "))
    config = json.loads((out / "adapter_config.json").read_text())
    (out / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": out.name}))
    return out


@pytest.fixture(scope="module")
def place(registries: Callable[..., Service], database: str, models: Models, shelf: Shelf, s3: S3Server) -> Iterator[PurgeSite]:
    """On SQLite with bytes in a directory, on PostgreSQL with bytes in S3."""
    with opened(registries, models, shelf, s3, in_s3=database == "postgresql") as place:
        yield place

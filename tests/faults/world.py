"""Installations that faults happen to: the embedded one, and one on PostgreSQL and S3 with workers."""

import json
import random
import signal
from pathlib import Path

import pytest

from app.runtime import Runtime
from app.services.operations import abandoned_uploads, garbage_collection
from app.services.operations.maintenance import sweep_all
from app.settings import Settings
from tests.faults import tally
from tests.support.s3 import S3Server
from tests.support.service_process import Service, invoke
from tests.support.workers import Cluster, Fleet, Worker

WORKERS = 2


class World:
    """An installation that runs.

    Attributes:
        root: where releases and patches are made.
        backend: what it stands on, in words.
        known: the settings of everything that opens its database and bytes.
        is_kept: for the next fault; who keeps it reads every byte after the last, not after each.
    """

    backend = "SQLite, directory"
    is_kept = False

    def __init__(self, root: Path, service: Service, **known: str) -> None:
        self.root, self.service, self.known = root, service, known

    def check(self, quick: bool = False) -> None:
        """`portllm fsck` finds nothing wrong; it reads every byte, or quickly the sizes of all."""
        ended = invoke("fsck", "--data", self.service.data, "--json", *(["--quick"] if quick else []), **self.known)
        assert ended.exit_code == 0, ended.output

    def mend(self) -> None:
        """Brings back what a round that failed may have left broken.

        Raises:
            Exception: it cannot; the rounds end here.
        """
        if self.service.process.poll() is not None:
            self.service.start()

    def sweep(self, fault: str) -> None:
        """Sweeps as if everything were old: whatever the faults left behind goes, and all that is named stays."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.known.items():
                patch.setenv(name, value)
            for module, name in ((abandoned_uploads, "DRAFT_AGE"), (garbage_collection, "BLOB_GRACE")):
                patch.setattr(module, name, -getattr(module, name))
            runtime = Runtime(Settings(data=self.service.data))
            runtime.look()
            try:
                found = sweep_all(runtime.read, runtime.write)
                tally.swept(fault, self.backend, found)
                print(f"orphans swept: {found}")
                assert not any(sweep_all(runtime.read, runtime.write).values())
            finally:
                runtime.stop()
        self.check(quick=self.is_kept)
        assert self.left_over() == []

    def left_over(self) -> list[str]:
        """What is staged anywhere."""
        staging = self.service.data / "blobs/staging"
        return [str(path) for path in staging.rglob("*")] if staging.exists() else []


class Site(World):
    """A service without jobs and two workers, which share a database and a bucket."""

    backend = "PostgreSQL, S3"
    is_kept = True

    def __init__(self, root: Path, cluster: Cluster, s3: S3Server) -> None:
        self.cluster, self.s3, self.bucket = cluster, s3, s3.bucket()
        allowed = json.dumps([f"s3://{self.bucket}/exports"])
        place = {"PORTLLM_BLOBS": f"s3://{self.bucket}/registry", "PORTLLM_ALLOW_S3": allowed}
        (root / "releases").mkdir()
        self.fleet = Fleet(root, cluster.database(), root / "releases", **s3.environment(), **place)
        self.variables = {**s3.environment(), **place}
        super().__init__(root, self.fleet, **self.fleet.settings, **self.variables)
        self.workers: list[Worker] = []

    def worker(self, *options: str, **variables: str) -> Worker:
        """A worker that is starting."""
        return Worker(self.fleet, f"worker-{random.getrandbits(32):08x}", *options, **self.variables, **variables)

    def hire(self) -> None:
        """Workers in place of those that are gone, ready."""
        self.workers = [worker for worker in self.workers if worker.process.poll() is None]
        self.workers += [self.worker() for _ in range(WORKERS - len(self.workers))]
        for worker in self.workers:
            worker.ready()

    def mend(self) -> None:
        """Database, service and two workers."""
        self.cluster.start()
        super().mend()
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.send(signal.SIGCONT)
        self.hire()

    def end(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.fleet.kill()

    def left_over(self) -> list[str]:
        return [*self.s3.objects(self.bucket, "registry/staging/"), *self.s3.multiparts(self.bucket)]

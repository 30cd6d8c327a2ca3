"""A merged model written to S3 by a job, against what one does without: download the release, merge it, upload the result.

Release, patch and results lie in one SeaweedFS on this machine, so bytes cost processor time and disk here, and no network:
where S3 is far away, the bytes that need not be moved count for more than they do here.
"""

import hashlib
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import MIB, PORTLLM, Options, measure, print_machine, print_table, settle, spread
from tests.benchmarks.model import attention_patch, main_model
from tests.support.s3 import S3Server, running_s3
from tests.support.service_process import Service, until
from tests.support.service_process import run as portllm

ROUNDS = 3
JOB_SECONDS = 1200
OWNER, FAMILY, RELEASE = "bench", "bench", "v1"


@dataclass(frozen=True)
class Written:
    """One materialisation: seconds from the request to its end, and bytes."""

    seconds: float
    copied: int
    moved: int
    peak: int


@dataclass(frozen=True)
class ByHand:
    """Download, merge, upload: seconds of each, bytes that were uploaded, and the largest peak of their processes."""

    steps: tuple[float, float, float]
    sent: int
    peak: int

    @property
    def seconds(self) -> float:
        return sum(self.steps)


def run(options: Options) -> None:
    """Prints a row of ours and one by hand for each patch, and the ratios of the medians."""
    model = main_model(options)
    patches = {"all-linear": model.patch, "q_proj,v_proj": attention_patch(model)}
    print_machine()
    rounds = 1 if options.small else min(options.runs, ROUNDS)
    # Not below the benchmark's directory: what a release is registered from is a bucket, and the store's files are the server's.
    root = Path(tempfile.mkdtemp(prefix="s3-bench-", dir=options.work))
    try:
        with running_s3() as s3:
            bucket = s3.bucket()
            s3.upload(model.base, bucket, f"upstream/{RELEASE}")
            with _service(root, s3, bucket) as service:
                ports = {name: _port(service, bucket, number, patch) for number, (name, patch) in enumerate(patches.items())}
                ours: dict[str, list[Written]] = {name: [] for name in patches}
                by_hand: dict[str, list[ByHand]] = {name: [] for name in patches}
                for number in range(rounds):
                    for name, patch in patches.items():
                        ours[name].append(_materialise(service, s3, bucket, ports[name], f"exports/{number}-{ports[name]}"))
                        by_hand[name].append(_by_hand(s3, bucket, patch, root / "hand", f"hand/{number}"))
                        if not number:
                            _require_same(s3, bucket, f"exports/{number}-{ports[name]}", f"hand/{number}")
                        for prefix in ("exports/", "hand/"):
                            _remove(s3, bucket, prefix)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    _report(ours, by_hand)


@contextmanager
def _service(root: Path, s3: S3Server, bucket: str) -> Iterator[Service]:
    """The embedded service with its bytes in the same store; the job is a child of it, as on a worker."""
    settings = {
        "PORTLLM_BLOBS": f"s3://{bucket}/registry", "PORTLLM_ALLOW_S3": f'["s3://{bucket}/upstream", "s3://{bucket}/exports"]',
    }  # fmt: skip
    service = Service(root, **s3.environment(), **settings).start()
    try:
        _must(service, "release", "add", FAMILY, RELEASE, "--from", f"s3://{bucket}/upstream/{RELEASE}", "--wait")
        yield service
    finally:
        service.kill()


def _port(service: Service, bucket: str, number: int, patch: Path) -> str:
    """Publishes a patch and carries it to the release; the port."""
    name = f"{OWNER}/patch-{number}"
    _must(service, "patch", "push", name, patch, "--family", FAMILY, "--trained-on", RELEASE)
    with service.client() as client:
        port = client.post("/ports", json={"patch": name, "release": RELEASE}).raise_for_status().json()
    assert port["state"] == "ready", port
    return str(port["id"])


def _must(service: Service, *arguments: str | Path) -> None:
    ended = portllm(*arguments, seconds=JOB_SECONDS, **service.variables())
    if ended.returncode:
        raise SystemExit(f"portllm {' '.join(map(str, arguments))} failed:\n{ended.stderr}")


def _materialise(service: Service, s3: S3Server, bucket: str, port: str, prefix: str) -> Written:
    """Through the API, to the moment at which the registry says that it is done."""
    settle()
    with service.client() as client, _Peak(service) as peak:
        began = time.perf_counter()
        row = client.post(f"/ports/{port}/materialise", json={"to": f"s3://{bucket}/{prefix}"}).raise_for_status().json()
        address = f"/materialisations/{row['id']}"
        until(lambda: client.get(address).json()["state"] in ("done", "failed"), JOB_SECONDS)
        seconds = time.perf_counter() - began
        row = client.get(address).json()
    if row["state"] != "done":
        raise SystemExit(f"the materialisation failed: {row['problem']}")
    return Written(seconds, row["result"]["bytes_copied"], row["result"]["bytes_moved"], peak.bytes)


class _Peak:
    """The largest resident set of a job's process, as the kernel keeps it, read until the process is gone."""

    def __init__(self, service: Service) -> None:
        self._service, self._ended, self.bytes = service, threading.Event(), 0
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        jobs: list[int] = []
        while not self._ended.wait(0.05):
            jobs = [pid for pid in jobs if Path(f"/proc/{pid}").exists()] or self._service.jobs()
            for pid in jobs:
                try:
                    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                    held = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
                except (OSError, StopIteration):  # it ended
                    continue
                self.bytes = max(self.bytes, held)


def _by_hand(s3: S3Server, bucket: str, patch: Path, work: Path, prefix: str) -> ByHand:
    """Three processes, as somebody would run them; what is merged is on this machine's disk in between."""
    settle(work)
    work.mkdir(parents=True)
    base, merged = work / "base", work / "merged"
    this = [sys.executable, "-m", "tests.benchmarks.s3_materialise"]
    environment = s3.environment()
    steps = [
        measure([*this, "download", bucket, f"upstream/{RELEASE}", base], environment),
        measure([PORTLLM, "merge", base, patch, merged]),
        measure([*this, "upload", bucket, prefix, merged], environment),
    ]
    sent = sum(file.stat().st_size for file in merged.iterdir())
    shutil.rmtree(work)
    download, merge, upload = (step.seconds for step in steps)
    return ByHand((download, merge, upload), sent, max(step.peak for step in steps))


def _transfer(direction: str, bucket: str, prefix: str, directory: Path) -> None:
    """boto3's own transfers, with its defaults: parts of 8 MiB, ten threads."""
    import boto3

    client = boto3.client("s3")
    if direction == "upload":
        for file in sorted(directory.iterdir()):
            client.upload_file(str(file), bucket, f"{prefix}/{file.name}")
        return
    directory.mkdir(parents=True)
    for entry in client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["Contents"]:
        client.download_file(bucket, entry["Key"], str(directory / entry["Key"].rpartition("/")[2]))


def _require_same(s3: S3Server, bucket: str, one: str, other: str) -> None:
    """Both ways must have written the same bytes, or their times say nothing."""
    digests = [_digests(s3.client(), bucket, s3.objects(bucket, f"{prefix}/"), prefix) for prefix in (one, other)]
    if digests[0] != digests[1]:
        raise SystemExit(f"the two models differ: {digests}")


def _digests(client: Any, bucket: str, keys: dict[str, int], prefix: str) -> dict[str, str]:
    found = {}
    for key in keys:
        digest = hashlib.sha256()
        for piece in client.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(4 * MIB):
            digest.update(piece)
        found[key.removeprefix(f"{prefix}/")] = digest.hexdigest()
    return found


def _remove(s3: S3Server, bucket: str, prefix: str) -> None:
    for key in s3.objects(bucket, prefix):
        s3.client().delete_object(Bucket=bucket, Key=key)


def _report(ours: dict[str, list[Written]], by_hand: dict[str, list[ByHand]]) -> None:
    rows = []
    for name, written in ours.items():
        hand = by_hand[name]
        ratio = statistics.median(h.seconds for h in hand) / statistics.median(w.seconds for w in written)
        last, peak = written[-1], max(w.peak for w in written)
        rows.append(
            (name, spread(w.seconds for w in written), "", _gb(last.copied), _gb(last.moved), f"{peak / MIB:.0f}")
        )  # fmt: skip
        parts = " + ".join(f"{statistics.median(h.steps[i] for h in hand):.1f}" for i in range(3))
        rows.append(
            (f"   by hand: {parts}", spread(h.seconds for h in hand), f"{ratio:.2f}", "0.00", _gb(hand[-1].sent),
             f"{max(h.peak for h in hand) / MIB:.0f}")
        )  # fmt: skip
    columns = ("patch on", "seconds: median (min to max)", "times ours", "copied in S3, GB", "sent, GB", "peak MiB")
    print_table(f"{len(next(iter(ours.values())))} interleaved runs; by hand: download + merge + upload", columns, rows)
    print("what the job sends it computes from as many bytes that it reads of the release; by hand, all of the release is read")


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f}"


if __name__ == "__main__":
    _transfer(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))

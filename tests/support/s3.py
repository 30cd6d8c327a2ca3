"""A real S3 server for tests: SeaweedFS, on loopback, in a directory of its own, ended with the tests."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

START_SECONDS = 60
ATTEMPTS = 5
KEY, SECRET = "test-key", "test-secret"


@dataclass(frozen=True)
class S3Server:
    """A server that runs."""

    url: str

    def environment(self, url: str = "") -> dict[str, str]:
        """What boto3's chain needs to find it, or what stands before it at `url`."""
        return {
            "AWS_ENDPOINT_URL_S3": url or self.url, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip

    def client(self) -> Any:
        """The test's own client, which knows nothing of the registry."""
        return _client(self.url)

    def bucket(self) -> str:
        """A new bucket."""
        name = f"b{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name

    def upload(self, directory: Path, bucket: str, prefix: str) -> str:
        """Puts a directory there; its address."""
        client = self.client()
        for path in sorted(p for p in directory.rglob("*") if p.is_file()):
            client.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(directory).as_posix()}")
        return f"s3://{bucket}/{prefix}"

    def objects(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """Sizes by key of what is there."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", ())}

    def multiparts(self, bucket: str) -> list[str]:
        """Keys of uploads in parts that were neither completed nor aborted."""
        return [u["Key"] for u in self.client().list_multipart_uploads(Bucket=bucket).get("Uploads", ())]


@cache
def _client(url: str) -> Any:
    """One for each server: to make one takes a tenth of a second, and threads may share it."""
    import boto3
    from botocore.config import Config

    config = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
    return boto3.client(
        "s3", endpoint_url=url, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="us-east-1", config=config
    )


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """Starts a server; PORTLLM_TEST_S3_ENDPOINT names one that runs already, with the same keys."""
    if given := os.environ.get("PORTLLM_TEST_S3_ENDPOINT"):
        yield S3Server(given)
        return
    place = Path(tempfile.mkdtemp(prefix="weed-"))
    identity = {
        "name": "test",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (place / "s3.json").write_text(json.dumps({"identities": [identity]}))
    try:
        server, process = _start(place)
        try:
            yield server
        finally:
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _start(place: Path) -> tuple[S3Server, subprocess.Popen[bytes]]:
    """Starts it, and again on other ports where somebody took one of them in between."""
    for attempt in range(ATTEMPTS):
        ports = free_ports(4)
        names = ("master.port", "volume.port", "filer.port", "s3.port")
        command = [
            str(Path(sys.executable).with_name("weed")), "server", f"-dir={place}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            "-filer", "-s3", f"-s3.config={place / 's3.json'}", "-master.telemetry=false", "-s3.port.iceberg=0",
            "-s3.port.lance=0", "-volume.max=1000", "-master.volumeSizeLimitMB=256",
            *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
        ]  # fmt: skip
        log = place / f"log-{attempt}.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, cwd=place)
        server = S3Server(f"http://127.0.0.1:{ports[3]}")
        try:
            _wait(server, process, log)
        except AssertionError:
            process.kill()
            process.wait()
            if attempt + 1 == ATTEMPTS or "address already in use" not in log.read_text():
                raise
        else:
            return server, process
    raise AssertionError("unreachable")


def _wait(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until a bucket can be made and an object be written to it."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client = server.client()
            bucket = server.bucket()
            client.put_object(Bucket=bucket, Key="x", Body=b"x")
            client.delete_object(Bucket=bucket, Key="x")
            return
        except Exception as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the S3 server did not start: {log.read_text()[-3000:]}") from error
            time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses, and whose neighbours 10,000 above (for gRPC) nobody uses either.

    All of them lie below those that the system gives to clients, and begin anywhere: whoever asks at the same time gets others.
    """
    found: list[int] = []
    for port in random.sample(range(11_000, 22_000), 11_000):
        if len(found) == count:
            break
        if all(_is_free(p) for p in (port, port + 10_000)):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

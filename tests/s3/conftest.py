"""A service on SQLite whose bytes lie in S3, and tiny models, in directories and in the bucket."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cloud import Cloud
from tests.support.live_fixtures import models
from tests.support.s3 import S3Server
from tests.support.service_process import Service

__all__ = ["models"]


@pytest.fixture(scope="module")
def cloud(s3: S3Server, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """Family cloud with v1 and v2 by reference to S3, and cloud/tone, trained on v1."""
    bucket, root = s3.bucket(), tmp_path_factory.mktemp("cloud")
    for name in ("v1", "v2"):
        s3.upload(models / name, bucket, f"upstream/{name}")
    environment = s3.environment() | {
        "PORTLLM_BLOBS": f"s3://{bucket}/registry", "PORTLLM_ALLOW_S3": f'["s3://{bucket}/upstream", "s3://{bucket}/exports"]',
    }  # fmt: skip
    service = Service(root, models, **environment).start()
    try:
        found = Cloud(service, s3, bucket, models)
        for name in ("v1", "v2"):
            found.run("release", "add", "cloud", name, "--from", f"{found.upstream}/{name}", "--wait")
        found.run("patch", "push", "cloud/tone", models / "patch", "--family", "cloud", "--trained-on", "v1")
        yield found
    finally:
        service.kill()

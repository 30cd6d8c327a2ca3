"""Fixtures that the live, CLI and fault tests share; their conftest files import them."""

from pathlib import Path

import pytest

from tests.support.models import continue_base, make_base, make_patch
from tests.support.service_process import Service

SECRETS = {
    "PORTLLM_TOKEN": "plt_not-for-children", "PORTLLM_SECRET_KEY": "not-for-children" * 2, "DATABASE_URL": "postgresql://not-for-children",
    "AWS_SECRET_ACCESS_KEY": "not-for-children", "HF_TOKEN": "not-for-children",
}  # fmt: skip
# A fixture that several conftest files import is made once for each of them; these are made once for all.
MODELS = pytest.StashKey[Path]()
SERVICE = pytest.StashKey[Service]()


@pytest.fixture(scope="session")
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny real models: releases v1 and v2 (which continues it), a patch on v1, a stranger of the same shape, a wider one."""
    stash = request.config.stash
    if MODELS not in stash:
        root = stash[MODELS] = tmp_path_factory.mktemp("models")
        make_base(root / "v1", dtype="float32", tokenizer=True, max_shard_size="120KB")
        continue_base(root / "v1", root / "v2")
        make_patch(root / "v1", root / "patch")
        make_base(root / "stranger", dtype="float32", seed=99)
        make_base(root / "wide", hidden_size=96)
    return stash[MODELS]


@pytest.fixture(scope="session")
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, models: Path) -> Service:
    """A running service that knows secrets; it may read the tiny models and everything below its own root / "releases"."""
    stash = request.config.stash
    if SERVICE not in stash:
        root = tmp_path_factory.mktemp("service")
        (root / "releases").mkdir()
        # What its jobs know is looked at: their parent is started as for users.
        started = Service(root, models, root / "releases", ahead=False, PORTLLM_MERGED_READS="4", **SECRETS).start()
        stash[SERVICE] = started
        request.config.add_cleanup(stash[SERVICE].kill)
    return stash[SERVICE]

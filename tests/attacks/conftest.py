"""A good base and a good patch to spoil, and the question that all attacks ask."""

import json
import time
from pathlib import Path

import pytest

from app.core import arithmetic
from app.core.errors import CoreError
from app.core.offline import merge
from tests.support.files import factors, matrix, write_base, write_patch
from tests.support.fuzz_world import lent, registry
from tests.support.hostile import MODULE, PATIENCE, Refusal


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base", {f"{MODULE}.weight": matrix((6, 8), "BF16", 1)})


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    other = {"model.layers.1.self_attn.q_proj.weight": matrix((6, 8), "BF16", 2)}
    return write_base(tmp_path / "sharded", [{f"{MODULE}.weight": matrix((6, 8), "BF16", 1)}, other])


@pytest.fixture
def patch(tmp_path: Path) -> Path:
    return write_patch(tmp_path / "patch", {MODULE: factors((6, 8), 2, "F32", 1)})


@pytest.fixture
def refusal(tmp_path: Path) -> Refusal:
    """Merges, and returns the error that this must end in; nothing may be left behind, and little time spent."""
    arithmetic.load()

    def ask(base: Path, patch: Path) -> CoreError:
        before = sorted(tmp_path.iterdir())
        start = time.process_time()
        with pytest.raises(CoreError) as refused:
            merge(base, patch, tmp_path / "out")
        assert time.process_time() - start < PATIENCE
        assert sorted(tmp_path.iterdir()) == before
        # The sentence and its data can be sent to somebody.
        json.dumps([str(refused.value), refused.value.data], ensure_ascii=False, allow_nan=False).encode()
        return refused.value

    return ask


# A registry to attack: what an attack does to it is of no concern to the next.
attacked = registry("attacked")
world = lent("attacked")

"""A recipe: how a patch is added to a release, frozen and named by its fingerprint.

The fingerprint stands for the merged bytes: same base, same patch, same recipe and same arithmetic give the same bytes,
whoever computes them and in whatever order they are asked for.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from app.core.errors import PortError
from app.core.strategies import STRATEGIES

# Raised whenever the same inputs would give other bytes: the formula, the order of operations, or the grid below.
ARITHMETIC_VERSION = 1
# Elements of a block. 2^18 float64 values and their delta stay in the second-level cache: 2.4 GB/s of bf16 on two cores,
# where blocks of 2^20 gave 1.2 and blocks of 2^16 1.8 (tests/benchmarks/blocks.py).
BLOCK_ELEMENTS = 2**18
# A row longer than this is split by columns.
MAX_ROW_ELEMENTS = 2**20

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
TOKENIZERS = ("release", "patch")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The choices that a request for a port can make.

    Attributes:
        strategy: one of `app.core.strategies.STRATEGIES`.
        dtype: output dtype of all float tensors, or None for the dtype that each has in the release.
        tokenizer: where tokenizer and chat template of the merged model come from, "release" or "patch".

    Raises:
        PortError: recipe.invalid.
    """

    strategy: str = "add"
    dtype: str | None = None
    tokenizer: str = "release"

    def __post_init__(self) -> None:
        for field, value, allowed in (
            ("strategy", self.strategy, (*STRATEGIES,)),
            ("dtype", self.dtype, (None, *DTYPES)),
            ("tokenizer", self.tokenizer, TOKENIZERS),
        ):
            if value not in allowed:
                choices = ", ".join(str(a) for a in allowed if a)
                raise PortError("recipe.invalid", reason=f"{field} is {str(value)[:40]!r}, not one of {choices}")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


# Plain addition in the release's own dtypes with its tokenizer: base and adapter together are the merged model.
PLAIN = Recipe()


def fingerprint(recipe: Recipe, base_digest: str, patch_digest: str, vectors: Mapping[str, bytes] | None = None) -> str:
    """Identifies the merged bytes: sha256 of arithmetic version, recipe, manifest digest, patch digest and prepass vectors."""
    prepass = {"prepass": digest_of_vectors(vectors)} if vectors is not None else {}
    named = {"arithmetic": ARITHMETIC_VERSION, "base": base_digest, "patch": patch_digest}
    return digest_of({**named, **recipe.to_dict(), **prepass})


def digest_of_vectors(vectors: Mapping[str, bytes]) -> str:
    """Returns the sha256 of prepass vectors, by tensor."""
    return digest_of({tensor: hashlib.sha256(vector).hexdigest() for tensor, vector in vectors.items()})


def etag(fingerprint: str, path: str) -> str:
    """The name of a computed file: 40 hex digits, so that nobody takes it for the sha256 of the content."""
    return digest_of([ARITHMETIC_VERSION, fingerprint, path])[:40]


def digest_of(value: Any) -> str:
    """sha256 (hex) of a value in canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

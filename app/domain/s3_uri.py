"""Places in an object store: what an s3:// address may be, and below which addresses one may read and write."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from app.domain.errors import DomainError

S3 = "s3://"
MAX_PLACE = 1024
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
# What keeps its meaning in every URL, listing and shell.
_PREFIX = re.compile(r"[A-Za-z0-9._=@+-]+(?:/[A-Za-z0-9._=@+-]+)*")


@dataclass(frozen=True, slots=True)
class S3Uri:
    """A bucket and a prefix without slashes at its ends; the empty prefix is the whole bucket."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, address: str) -> Self:
        """Reads s3://bucket/prefix.

        Raises:
            DomainError: place.invalid.
        """
        bucket, _, prefix = address.removeprefix(S3).partition("/")
        prefix = prefix.rstrip("/")
        plain = not prefix or (_PREFIX.fullmatch(prefix) and not {".", ".."} & set(prefix.split("/")))
        if not address.startswith(S3) or len(address) > MAX_PLACE or not _BUCKET.fullmatch(bucket) or not plain:
            raise DomainError("place.invalid", place=address[:200])
        return cls(bucket, prefix)

    def __str__(self) -> str:
        return f"{S3}{self.bucket}/{self.prefix}".rstrip("/")

    def key(self, path: str) -> str:
        """The key of a file at this place."""
        return f"{self.prefix}/{path}" if self.prefix else path

    def is_below(self, other: Self) -> bool:
        """Whether this place is another, or lies below it; whole names count: s3://b/models2 is not below s3://b/models."""
        return self.bucket == other.bucket and (not other.prefix or f"{self.prefix}/".startswith(f"{other.prefix}/"))

    def require_below(self, allowed: Iterable[str]) -> None:
        """Raises `DomainError` (place.not_allowed) unless an admin listed this place or one above it."""
        if not any(self.is_below(type(self).parse(listed)) for listed in allowed):
            raise DomainError("place.not_allowed", place=str(self))

"""Ranged reads of objects: a `Source` over S3."""

import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from app.blobs.s3.client import is_missing, status_of, translated
from app.core.errors import CheckpointError

ATTEMPTS = 4
PAUSE_SECONDS = 0.2


class Object(NamedTuple):
    """One object: its key, and the ETag that it must have (None: whatever it has)."""

    key: str
    size: int
    etag: str | None


class S3Source:
    """`app.core.source.Source` over objects of one bucket.

    Every read asks for the object as it was registered (If-Match): one that changed underneath is refused, not served. A body
    that breaks off is taken up where it ended.
    """

    def __init__(self, client: Any, bucket: str, objects: Mapping[str, Object]) -> None:
        self._client, self._bucket, self._objects = client, bucket, objects

    def size(self, path: str) -> int:
        return self._object(path).size

    def read_into(self, path: str, offset: int, buffer: memoryview) -> None:
        found, done = self._object(path), 0
        if offset + len(buffer) > found.size:
            raise CheckpointError("checkpoint.changed", path=path, reason="it is shorter than was asked for")
        for attempt in range(ATTEMPTS):
            if done == len(buffer):
                return
            last = attempt == ATTEMPTS - 1
            done += self._read(path, found, offset + done, buffer[done:], may_fail=last)
            if done < len(buffer) and not last:
                time.sleep(PAUSE_SECONDS * 2**attempt)
        if done < len(buffer):
            raise CheckpointError("checkpoint.changed", path=path, reason="its body broke off again and again")

    def close(self) -> None:
        """The client's connections are shared."""

    def _object(self, path: str) -> Object:
        if path not in self._objects:
            raise CheckpointError("checkpoint.missing_file", path=path)
        return self._objects[path]

    def _read(self, path: str, found: Object, offset: int, buffer: memoryview, may_fail: bool) -> int:
        """One request; how many bytes came. Raises what broke it only when `may_fail`."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        condition = {"IfMatch": found.etag} if found.etag else {}
        span = f"bytes={offset}-{offset + len(buffer) - 1}"
        done = 0
        with translated():
            try:
                body = self._client.get_object(Bucket=self._bucket, Key=found.key, Range=span, **condition)["Body"]
                with body:
                    while done < len(buffer) and (count := body.readinto(buffer[done:])):
                        done += count
            except ClientError as error:
                if is_missing(error) or status_of(error) in (412, 416):
                    raise CheckpointError("checkpoint.changed", path=path, reason="its object is another or gone") from None
                raise
            except (BotoCoreError, HTTPError, OSError) as error:
                if may_fail and done == 0:
                    raise _as_botocore(error) from None
        return done


class S3Pieces:
    """`app.core.source.Source` over one staged file that lies in several objects, one after another; its path is ""."""

    def __init__(self, client: Any, bucket: str, pieces: Sequence[Object]) -> None:
        self._source = S3Source(client, bucket, {str(number): piece for number, piece in enumerate(pieces)})
        self._ends = list(accumulate(piece.size for piece in pieces))

    def size(self, path: str) -> int:  # noqa: ARG002  there is one
        return self._ends[-1] if self._ends else 0

    def read_into(self, path: str, offset: int, buffer: memoryview) -> None:
        if offset + len(buffer) > self.size(path):
            raise CheckpointError("checkpoint.changed", path=path, reason="it is shorter than was asked for")
        number, done = bisect_right(self._ends, offset), 0
        while done < len(buffer):
            start = self._ends[number - 1] if number else 0
            count = min(len(buffer) - done, self._ends[number] - offset - done)
            self._source.read_into(str(number), offset + done - start, buffer[done : done + count])
            done, number = done + count, number + 1

    def close(self) -> None:
        """The client's connections are shared."""


def _as_botocore(error: Exception) -> Exception:
    from botocore.exceptions import BotoCoreError, ReadTimeoutError  # noqa: PLC0415

    named: Exception = ReadTimeoutError(endpoint_url="the object store", error=error)
    return error if isinstance(error, BotoCoreError) else named

"""Orders and results as JSON: what is encoded is decoded to the same value, and everything else is refused."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from app.blobs.locations import DirectoryLocation, DirectorySink, FilesLocation, LocalStore, S3Location, S3Prefix, S3Store
from app.blobs.s3.source import Object
from app.composition import JOB_KINDS
from app.core.recipe import Recipe
from app.core.source import FileStat
from app.domain.upstreams import Hub, HubFile
from app.jobs.codec import CodecError, contains, decode, encode
from app.services.catalog.orders import IngestOrder, IngestResult, UpstreamCommit
from app.services.jobs.kinds import JobKind
from app.services.patches.orders import BytesQuota, ImportedFile, ImportOrder, ImportResult
from app.services.ports.orders import DigestResult, MaterialiseOrder, MaterialiseResult, MergeOrder, WrittenFile

HUB = Hub("own", "https://hub", "secret", ("10.0.0.1",), ())
MERGE = MergeOrder(
    FilesLocation({"manifest": "/blobs/m"}),
    DirectoryLocation("/models/v1", {"a": FileStat(1, 2, 3), "b": FileStat(1, 2, 3, 4, 5)}, ("/models",)),
    S3Location("bucket", {"c": Object("key", 7, None)}), {"c": 7}, Recipe(dtype="float32"),
)  # fmt: skip
UPSTREAM = UpstreamCommit(HUB, "o/r", "c", (HubFile("a", 1, None, "f"),), S3Store("s3://b"), "u")
SUMMARY = {"tensors": 1, "dtypes": ["F16"]}
VALUES = [
    MERGE, DigestResult({"a": "0"}, {"mean": 0.5}), DigestResult({}, None),
    MaterialiseOrder(MERGE, ("a", "b"), S3Prefix("bucket", "out"), "f"), MaterialiseResult((WrittenFile("a", 2, 1, 1),), 1, 1),
    IngestOrder("run", UPSTREAM, DirectorySink("/d"), copy=True),
    IngestResult("0", {"a": (1, "etag"), "b": (1, 2, 3, None, 4)}, SUMMARY, {"tags": ["x"], "license": "mit"}),
    ImportOrder(HUB, "o/r", "main", ("c",), LocalStore("/blobs"), "u", 1, 2, BytesQuota("acme", 1, 2)),
    ImportResult("c"), ImportResult("c", (ImportedFile("a", 1, "0"),), ("x",), "base", None),
]  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """A value of every form that JSON has."""

    number: int
    share: float
    flag: bool
    text: str | None


GOOD = {"type": "Sample", "number": 1, "share": 0.5, "flag": True, "text": None}


def through_json(value: object) -> Any:
    return json.loads(json.dumps(encode(value)))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_value_that_is_encoded_is_decoded_to_the_same_value(value: Any) -> None:
    assert decode(type(value), through_json(value)) == value


@pytest.mark.parametrize(
    "changed",
    [
        {"number": True}, {"number": 1.5}, {"number": "1"}, {"number": None}, {"share": "x"}, {"share": True}, {"flag": 1},
        {"text": 1}, {"more": 1}, {"type": "Other"}, {"type": None},
    ],
    ids=str,
)  # fmt: skip
def test_value_of_another_type_or_with_another_field_is_refused(changed: dict[str, Any]) -> None:
    assert decode(Sample, GOOD) == Sample(1, 0.5, True, None)
    with pytest.raises(CodecError, match="Sample"):
        decode(Sample, GOOD | changed)


@pytest.mark.parametrize("field", GOOD)
def test_value_without_a_field_is_refused(field: str) -> None:
    with pytest.raises(CodecError):
        decode(Sample, {name: value for name, value in GOOD.items() if name != field})


@pytest.mark.parametrize("data", [None, 1, "x", [], {}, [GOOD]], ids=str)
def test_what_is_no_object_of_the_class_is_refused(data: Any) -> None:
    with pytest.raises(CodecError):
        decode(Sample, data)


def test_member_of_a_union_that_is_not_in_it_is_refused() -> None:
    data = through_json(MERGE)
    data["base"]["type"] = "DirectorySink"
    with pytest.raises(CodecError, match=r"MergeOrder\.base is none of FilesLocation, DirectoryLocation, S3Location"):
        decode(MergeOrder, data)


def test_what_an_order_contains_is_found_at_any_depth() -> None:
    assert contains([{"a": VALUES[5]}], Hub)
    assert not contains(MERGE, Hub)


@pytest.mark.parametrize("kind", JOB_KINDS.values(), ids=JOB_KINDS.keys())
def test_result_of_every_kind_has_a_sample_here(kind: JobKind[Any, Any, Any]) -> None:
    assert kind.result in {type(value) for value in VALUES}

"""One conformance suite for every blob store: `app.blobs.store.BlobStore`, method by method."""

import hashlib
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.blobs.local import LocalBlobs
from app.blobs.locations import Location, OnS3, Sink, SinkLocation, StoreLocation, open_location
from app.blobs.memory import MemoryBlobs
from app.blobs.opening import open_store
from app.blobs.s3.store import S3Blobs
from app.blobs.store import BlobStore
from app.clients.hub import HubClient
from app.core.errors import CheckpointError
from app.core.source import read_range
from app.domain.errors import DomainError
from app.domain.upstreams import Hub
from app.jobs.codec import contains, decode, encode
from app.jobs.tasks import download
from tests.support.fake_hub import Fault, running_hub
from tests.support.s3 import S3Server


@pytest.fixture(params=["local", "memory", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BlobStore:
    """Every store that there is."""
    if request.param != "s3":
        return LocalBlobs(tmp_path / "blobs") if request.param == "local" else MemoryBlobs()
    server: S3Server = request.getfixturevalue("s3")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return S3Blobs(f"s3://{server.bucket()}/some/prefix")


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(blobs: BlobStore, content: bytes, upload: str = "up") -> str:
    """Stages and promotes bytes; their digest."""
    if content:
        blobs.append(upload, "0", 0, content)
    blobs.promote(upload, "0", digest_of(content), "file")
    return digest_of(content)


def raised(code: str, call: Callable[[], object]) -> dict[str, object]:
    with pytest.raises(DomainError) as caught:
        call()
    assert caught.value.code == code
    return caught.value.data


def test_append_at_another_offset_than_the_end_is_refused(blobs: BlobStore) -> None:
    """Bytes are added where the last ended, and nowhere else."""
    assert blobs.received("up", "0") == 0
    assert blobs.append("up", "0", 0, b"abc") == 3
    assert blobs.append("up", "0", 3, b"") == 3
    assert blobs.append("up", "0", 3, b"de") == 5
    for offset in (0, 4, 6):
        data = raised("upload.offset", lambda offset=offset: blobs.append("up", "0", offset, b"x"))
        assert (data["received"], data["offset"]) == (5, offset)
    assert blobs.received("up", "0") == 5
    assert blobs.received("up", "1") == blobs.received("other", "0") == 0


def test_staged_bytes_are_read_before_promotion(blobs: BlobStore) -> None:
    """In one piece or in several, from anywhere; not beyond their end; nothing where nothing arrived."""
    content = bytes(range(256)) * 4
    for start, stop in ((0, 300), (300, 301), (301, 1024)):
        blobs.append("up", "0", start, content[start:stop])
    with closing(blobs.staged("up", "0")) as source:
        assert source.size("") == 1024
        for offset, length in ((0, 1024), (0, 300), (299, 3), (300, 1), (1000, 24), (1024, 0), (5, 0)):
            assert read_range(source, "", offset, length) == content[offset : offset + length]
        with pytest.raises(CheckpointError):
            read_range(source, "", 1000, 25)


def test_staged_blob_is_invisible_before_promotion(blobs: BlobStore) -> None:
    """Staged bytes have no size, are not listed and cannot be opened; promoted ones can."""
    digest = digest_of(b"abc")
    blobs.append("up", "0", 0, b"abc")
    assert blobs.size(digest) is None
    assert list(blobs.digests()) == []
    raised("blob.missing", lambda: blobs.open({"file": digest}))
    blobs.promote("up", "0", digest, "file")
    assert blobs.size(digest) == 3
    assert [d for d, _ in blobs.digests()] == [digest]
    assert blobs.received("up", "0") == 0


def test_promotion_with_a_wrong_digest_is_refused(blobs: BlobStore) -> None:
    """Bytes of another digest are dropped, and the error names the user's file."""
    blobs.append("up", "0", 0, b"abc")
    expected = digest_of(b"abd")
    data = raised("upload.digest", lambda: blobs.promote("up", "0", expected, "adapter_config.json"))
    assert data == {"path": "adapter_config.json", "actual": digest_of(b"abc"), "expected": expected}
    assert blobs.received("up", "0") == 0
    assert list(blobs.digests()) == []


def test_promote_verified_file_in_pieces_is_not_read(blobs: BlobStore) -> None:
    """What was hashed while it was staged is taken as it is; in S3 the store joins the pieces itself."""
    pieces = [bytes([number]) * blobs.write_bytes for number in range(2)] + [b"end"]
    for number, piece in enumerate(pieces):
        blobs.append("up", "0", number * blobs.write_bytes, piece)
    blobs.sync_staged("up", "0")
    named = digest_of(b"not these bytes, and nobody looks")
    blobs.promote("up", "0", named, "file", True)
    with closing(blobs.open({"file": named})) as source:
        assert read_range(source, "file", 0, source.size("file")) == b"".join(pieces)
    assert blobs.received("up", "0") == 0


def test_promote_verified_file_without_bytes_makes_an_empty_blob(blobs: BlobStore) -> None:
    blobs.sync_staged("up", "0")
    blobs.promote("up", "0", digest_of(b""), "file", True)
    assert blobs.size(digest_of(b"")) == 0


def test_promote_verified_file_that_is_gone_leaves_the_blob_as_it_is(blobs: BlobStore) -> None:
    digest = put(blobs, b"abc")
    raised("upload.digest", lambda: blobs.promote("up", "0", digest, "file", True))
    assert blobs.size(digest) == 3


def test_promotion_without_bytes_makes_an_empty_blob(blobs: BlobStore) -> None:
    """A file of no bytes is one, though nothing was sent."""
    digest = put(blobs, b"")
    assert blobs.size(digest) == 0
    source = blobs.open({"empty": digest})
    assert source.size("empty") == 0
    source.close()


def test_open_blobs_are_read_by_range(blobs: BlobStore) -> None:
    """A source over several blobs, by the names it was asked for; any range, and not a byte beyond."""
    one, two = bytes(range(256)) * 40, b"second"
    source = blobs.open({"a": put(blobs, one), "dir/b": put(blobs, two), "again": digest_of(one)})
    assert (source.size("a"), source.size("dir/b"), source.size("again")) == (len(one), 6, len(one))
    assert read_range(source, "a", 0, len(one)) == one
    assert read_range(source, "again", 1000, 17) == one[1000:1017]
    assert read_range(source, "dir/b", 6, 0) == b""
    for offset, length in ((0, 7), (6, 1), (100, 1)):
        with pytest.raises(CheckpointError) as caught:
            read_range(source, "dir/b", offset, length)
        assert caught.value.code == "checkpoint.changed"
    for path in ("b", "c", "../a"):
        with pytest.raises(CheckpointError) as caught:
            source.size(path)
        assert caught.value.code == "checkpoint.missing_file"
    source.close()


def test_promotion_of_existing_bytes_renews_their_age(blobs: BlobStore) -> None:
    """Kept once; whoever reads them is not disturbed by their second arrival; the age begins anew."""
    digest = put(blobs, b"abc")
    source = blobs.open({"file": digest})
    put(blobs, b"abc", "second")
    assert read_range(source, "file", 0, 3) == b"abc"
    source.close()
    assert [d for d, _ in blobs.digests()] == [digest]


def test_missing_blob_is_reported_by_its_digest(blobs: BlobStore) -> None:
    """What is named and not there is said by its digest."""
    there, missing = put(blobs, b"abc"), digest_of(b"gone")
    assert blobs.size(missing) is None
    for call in (blobs.open, blobs.location):
        assert raised("blob.missing", lambda call=call: call({"a": there, "b": missing})) == {"digest": missing}


def through_json(expected: Any, value: object) -> Any:
    """A value as a job's process gets it."""
    return decode(expected, json.loads(json.dumps(encode(value))))


def test_location_of_blobs_opens_them_in_another_process(blobs: BlobStore) -> None:
    """Where blobs are stored, as a value that a process that knows no store can open."""
    location = through_json(Location, blobs.location({"a": put(blobs, b"abc"), "b/c": put(blobs, b"def")}))
    with closing(open_location(location)) as source:
        assert read_range(source, "a", 0, 3) == b"abc"
        assert read_range(source, "b/c", 1, 2) == b"ef"
        with pytest.raises(CheckpointError):
            source.size("d")
    assert contains({"order": [location]}, OnS3) == isinstance(blobs, S3Blobs)


def test_adopted_files_become_blobs(blobs: BlobStore) -> None:
    """What a job of ours wrote becomes blobs under their digests; the rest goes with its run."""
    sink = Sink(through_json(SinkLocation, blobs.sink("job")))
    sink.put("files/x", b"copy")
    sink.put("scratch", b"left over")
    large = bytes(range(256)) * 2**17  # 32 MiB: more than one part
    with sink.open("files/large", len(large)) as write:
        for start in range(0, len(large), 3_000_000):
            write(memoryview(large)[start : start + 3_000_000])
    sink.put("manifest.json", b"{}")
    sink.keep({"files/large": digest_of(large)})
    files = {"files/x": digest_of(b"copy"), "manifest.json": digest_of(b"{}"), "files/large": digest_of(large)}
    blobs.adopt("job", files)
    assert {d for d, _ in blobs.digests()} == set(files.values())
    assert raised("blob.missing", lambda: blobs.adopt("job", {"never": digest_of(b"never")}))
    blobs.discard("job")
    assert list(blobs.uploads()) == []
    source = blobs.open(files)
    assert read_range(source, "files/large", 20 * 2**20, 2**20) == large[20 * 2**20 : 21 * 2**20]
    source.close()


def test_sink_whose_writer_fails_leaves_nothing(blobs: BlobStore) -> None:
    """A file whose writer failed is not there, and leaves no parts."""
    sink = Sink(blobs.sink("job"))

    def break_off() -> None:
        with sink.open("files/x", 40 * 2**20) as write:
            write(memoryview(bytes(20 * 2**20)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert list(blobs.digests()) == []
    blobs.discard("job")
    assert list(blobs.uploads()) == []
    assert raised("blob.missing", lambda: blobs.adopt("job", {"files/x": digest_of(b"")}))


def test_discard_drops_one_staged_upload(blobs: BlobStore) -> None:
    """Drops what was staged, of that upload alone; twice does no harm."""
    for upload in ("one", "two"):
        blobs.append(upload, "0", 0, b"abc")
    Sink(blobs.sink("one")).put("x", b"1")
    assert {upload for upload, _ in blobs.uploads()} == {"one", "two"}
    blobs.discard("one")
    blobs.discard("one")
    blobs.discard("never")
    assert {upload for upload, _ in blobs.uploads()} == {"two"}
    assert blobs.received("one", "0") == 0
    assert blobs.received("two", "0") == 3


def test_delete_removes_bytes_and_ignores_missing_ones(blobs: BlobStore) -> None:
    """Removes bytes; nothing happens when there are none."""
    digest = put(blobs, b"abc")
    blobs.delete(digest)
    blobs.delete(digest)
    assert blobs.size(digest) is None
    assert list(blobs.digests()) == []


def test_delete_of_bytes_that_were_renewed_keeps_them(blobs: BlobStore) -> None:
    """The age is asked again when bytes are removed: those that arrived once more meanwhile stay."""
    digest = put(blobs, b"abc")
    assert not blobs.delete(digest, older_than=60)
    assert blobs.size(digest) == 3
    assert blobs.delete(digest, older_than=-2)  # S3 keeps whole seconds
    assert blobs.size(digest) is None
    assert not blobs.delete(digest, older_than=-2)


def test_age_counts_from_the_last_byte(blobs: BlobStore) -> None:
    """Ages are in seconds since the last byte: an upload that goes on is young."""
    digest = put(blobs, b"abc")
    blobs.append("slow", "0", 0, b"a")
    time.sleep(1.2)  # S3 keeps whole seconds
    blobs.append("slow", "0", 1, b"b")
    (age,) = (age for found, age in blobs.digests() if found == digest)
    (touched,) = (age for upload, age in blobs.uploads() if upload == "slow")
    assert 0.9 < age < 60
    assert -1.1 < touched < age


def test_concurrent_appends_at_one_offset_keep_one(blobs: BlobStore) -> None:
    """Of several threads that send bytes for the same place, one is heard; nothing is mixed."""
    start, content = threading.Barrier(4), [bytes([i]) * 2_000_000 for i in range(4)]

    def send(part: bytes) -> bool:
        start.wait()
        try:
            blobs.append("up", "0", 0, part)
        except DomainError as error:
            assert error.code == "upload.offset"  # noqa: PT017
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        heard = list(pool.map(send, content))
    assert sum(heard) == 1
    blobs.promote("up", "0", digest_of(content[heard.index(True)]), "file")


def test_stores_on_one_directory_wait_for_each_other(tmp_path: Path) -> None:
    """Two stores on one directory, as two processes of a service are: an append and a promotion wait for each other."""
    one, other = LocalBlobs(tmp_path / "blobs"), LocalBlobs(tmp_path / "blobs")
    content = b"x" * 1000
    for number in range(50):
        upload = f"up{number}"
        one.append(upload, "0", 0, content)
        with ThreadPoolExecutor(3) as pool:
            promoted = pool.submit(one.promote, upload, "0", digest_of(content), "file")
            appended = [pool.submit(store.append, upload, "0", len(content), b"y") for store in (one, other)]
        # Whoever came second found more bytes than it said there were, or none any more.
        refused = [future.exception() for future in appended if future.exception()]
        assert all(isinstance(error, DomainError) and error.code == "upload.offset" for error in refused), refused
        error = promoted.exception()
        assert error is None or (isinstance(error, DomainError) and error.code == "upload.digest")
        assert len(refused) == (2 if error is None else 1)
        if error is None:
            source = one.open({"file": digest_of(content)})
            with closing(source):
                assert read_range(source, "file", 0, source.size("file")) == content
        one.delete(digest_of(content))


def test_concurrent_promotions_of_the_same_bytes_succeed(blobs: BlobStore) -> None:
    """Two uploads of the same bytes, promoted by two threads at once, both succeed."""
    content = bytes(1_000_000)
    for upload in ("one", "two"):
        blobs.append(upload, "0", 0, content)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda upload: blobs.promote(upload, "0", digest_of(content), "file"), ("one", "two")))
    assert blobs.size(digest_of(content)) == len(content)


def test_local_store_keeps_bytes_by_digest(tmp_path: Path) -> None:
    """On disk: bytes by digest, not writable; staging beside them; what is there is found again by another store."""
    blobs = LocalBlobs(tmp_path)
    digest = put(blobs, b"abc")
    path = tmp_path / "sha256" / digest[:2] / digest
    assert path.read_bytes() == b"abc"
    assert path.stat().st_mode & 0o777 == 0o400
    blobs.append("up", "0", 0, b"de")
    assert (tmp_path / "staging" / "up" / "0").stat().st_mode & 0o777 == 0o600
    (path.parent / "not-a-digest").write_text("x")
    again = LocalBlobs(tmp_path)
    assert again.size(digest) == 3
    assert [d for d, _ in again.digests()] == [digest]
    assert again.append("up", "0", 2, b"f") == 3


def test_erase_leaves_no_trace(blobs: BlobStore) -> None:
    """Bytes and what was staged leave no trace; young ones stay where only old ones are meant; again it does no harm."""
    digest = put(blobs, b"abc")
    blobs.append("left", "0", 0, b"staged")
    assert [(e.digest, e.size) for e in blobs.entries()] == [(digest, 3)]
    assert not blobs.erase(digest, older_than=3600)
    assert blobs.traces(digest) == 1
    assert blobs.erase(digest)
    blobs.erase_upload("left")
    assert (blobs.traces(digest), blobs.size(digest), blobs.received("left", "0")) == (0, None, 0)
    assert not blobs.erase(digest)
    blobs.erase_upload("left")


def test_reopened_store_finds_staged_bytes(blobs: BlobStore) -> None:
    """A store is opened again out of plain values: what is staged there is there, and what is promoted there is here."""
    if isinstance(blobs, MemoryBlobs):
        with pytest.raises(NotImplementedError):
            blobs.where()
        return
    blobs.append("up", "0", 0, b"abc")
    where = through_json(StoreLocation, blobs.where())
    assert contains(where, OnS3) == isinstance(blobs, S3Blobs)
    other = open_store(where)
    assert other.received("up", "0") == 3
    other.append("up", "0", 3, b"def")
    other.promote("up", "0", digest_of(b"abcdef"), "file")
    assert blobs.size(digest_of(b"abcdef")) == 6
    assert blobs.received("up", "0") == 0


def test_interrupted_pull_fetches_every_byte_once(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut after every few bytes, ended and begun again: every byte is fetched once, and the files are whole."""
    if isinstance(blobs, MemoryBlobs):
        return
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(type(blobs), "write_bytes", 1000)
    content = {"a.model": bytes(range(256)) * 20, "same.model": bytes(range(256)) * 20, "small.json": b"{}", "empty.model": b""}
    with running_hub() as hub:
        repository = hub.add("org/x", **content)
        client = HubClient(Hub("own", hub.url, None, ("127.0.0.1",), ("127.0.0.1",)))
        files = client.files("org/x", repository.commit)
        assert {f.path: f.size for f in files} == {path: len(data) for path, data in content.items()}
        hub.faults = lambda server, _, start: None if server == "hub" else Fault(cut_after=1500) if start < 3000 else Fault(404)
        told = list[int]()

        def puller() -> download.Puller:
            return download.Puller(client, "org/x", repository.commit, open_store(blobs.where()), "pull-x", told.append)

        with pytest.raises(DomainError) as raised:
            puller().keep_all(files[:1])
        assert raised.value.code == "upstream.missing"
        assert blobs.received("pull-x", files[0].key) == 3000
        hub.faults = lambda *_: None
        told.clear()
        kept = puller().keep_all(files)
        assert kept == {path: digest_of(data) for path, data in content.items()}
        assert sum(told) == sum(map(len, content.values()))
        assert [a.headers.get("range") for a in hub.fetched("a.model", "cdn")][-1] == "bytes=3000-5119"
        assert hub.fetched("same.model") == []
        hub.asked.clear()
        assert puller().keep_all(f for f in files if f.sha256) == {p: d for p, d in kept.items() if p != "small.json"}
        assert hub.asked == []
        for digest in kept.values():
            assert blobs.size(digest) is not None

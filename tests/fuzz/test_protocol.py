"""The upload protocol as a machine: whatever a client does and in whatever order, the registry is where the model says."""

import hashlib
import os
import time
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from app.services.operations.maintenance import sweep_all
from tests.fuzz.budget import SECONDS, limits, repeated
from tests.support.fuzz_world import CONFIG, WEIGHTS, World
from tests.support.registry import unique
from tests.support.uploads import announce, append

CARD = "README.md"
PATHS = st.sampled_from([CONFIG, WEIGHTS, CARD])


class Uploads(RuleBasedStateMachine):
    """One patch, its drafts one after another. `sent` is what arrived of each file, `versions` what is published."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.patch = self.world.new_patch()
        self.versions: dict[int, dict[str, bytes]] = {}
        self.upload = ""
        self.sent: dict[str, bytes] = {}

    @initialize(lies=st.booleans())
    def first(self, lies: bool) -> None:
        self.draft(lies)

    @precondition(lambda self: not self.upload)
    @rule(lies=st.booleans())
    def draft(self, lies: bool) -> None:
        """A draft of bytes that nobody sent yet; one that lies names another digest for the card."""
        self.files = self.world.files() | {CARD: unique("card ").encode() * 9}
        self.lies = lies
        listed = [announce(path, content) for path, content in self.files.items()]
        if lies:
            listed[-1]["sha256"] = hashlib.sha256(b"something else").hexdigest()
        made = self.world.acme.post(f"/patches/{self.patch}/versions", {"trained_on": "v1", "files": listed})
        assert made.status_code == 201
        self.upload, self.sent = made.json()["id"], dict.fromkeys(self.files, b"")

    def append(self, path: str, offset: int, content: bytes) -> Any:
        answer = append(self.world.acme, f"/uploads/{self.upload}/files/{path}", offset, content)
        return answer, self.world.check(answer)

    @precondition(lambda self: self.upload)
    @rule(path=PATHS, share=st.integers(1, 4))
    def go_on(self, path: str, share: int) -> None:
        """The next part of a file, where it ended; then the same once more, as a client does that lost the answer."""
        done, whole = self.sent[path], self.files[path]
        part = whole[len(done) : len(done) + -(-len(whole) // share)]
        answer, code = self.append(path, len(done), part)
        assert (answer.status_code, code) == (204, None)
        self.sent[path] = done + part
        if part:
            _, code = self.append(path, len(done), part)
            assert code == "upload.offset"

    @precondition(lambda self: self.upload)
    @rule(path=PATHS, offset=st.one_of(st.integers(0, 800), st.sampled_from([2**31, 2**63, 2**64, 10**30])))
    def elsewhere(self, path: str, offset: int) -> None:
        """Bytes for a place that the file is not at."""
        if offset != len(self.sent[path]):
            answer, code = self.append(path, offset, b"x")
            assert code == "upload.offset"
            assert answer.json()["data"]["received"] == len(self.sent[path])

    @precondition(lambda self: self.upload)
    @rule(path=PATHS, more=st.integers(1, 40))
    def too_much(self, path: str, more: int) -> None:
        """More bytes than were announced: none of the part that goes too far is kept."""
        rest = self.files[path][len(self.sent[path]) :]
        _, code = self.append(path, len(self.sent[path]), rest + b"x" * more)
        assert code == "upload.too_long"

    @precondition(lambda self: self.upload)
    @rule(path=st.sampled_from(["nope", "../config.json", "..%2f..%2fadmin-token", "0", "%00", "adapter_config.json/", "%2e%2e"]))
    def no_such_file(self, path: str) -> None:
        answer, code = self.append(path, 0, b"x")
        assert answer.status_code in (404, 422)
        assert code in ("upload.file", "request.route", "upload.unknown", "request.invalid")

    @precondition(lambda self: self.upload)
    @rule()
    def publish(self) -> None:
        """Published if all is there and as announced, twice to the same end; what was wrong is to be sent again."""
        asked = [self.world.acme.post(f"/uploads/{self.upload}/publish")]
        code = self.world.check(asked[0])
        if self.sent != self.files:
            assert code == "upload.incomplete"
        elif self.lies:
            assert code == "upload.digest"
            # What was wrong is dropped, and of what was looked at before it, nothing is asked for twice in vain.
            received = self.world.acme.get(f"/uploads/{self.upload}").json()["uploads"]
            counts = {found["path"]: found["received"] for found in received}
            assert counts[CARD] == 0
            assert all(counts[path] in (0, len(content)) for path, content in self.sent.items())
            self.sent = {path: content[: counts[path]] for path, content in self.sent.items()}
        else:
            assert code is None
            asked.append(self.world.acme.post(f"/uploads/{self.upload}/publish"))
            assert [answer.json()["number"] for answer in asked] == [len(self.versions) + 1] * 2
            self.versions[len(self.versions) + 1] = self.files
            _, gone = self.append(CONFIG, 0, b"x")
            assert gone == "upload.unknown"
            self.upload = ""

    @rule(is_old=st.booleans())
    def sweep(self, is_old: bool) -> None:
        """Drafts that were left alone for a day go with their bytes; others, and all that is published, stay."""
        service = self.world.service
        if is_old and self.upload:
            staged = service.data / "blobs" / "staging" / self.upload
            service.execute("UPDATE patch_versions SET created_at = '2020-01-01 00:00:00.000000' WHERE id = :id", id=self.upload)
            for path in (*staged.glob("*"), *([staged] if staged.exists() else [])):
                os.utime(path, (time.time() - 2 * 86_400,) * 2)
        sweep_all(service.runtime.read, service.runtime.write)
        if is_old and self.upload:
            assert self.world.check(self.world.acme.get(f"/uploads/{self.upload}")) == "upload.unknown"
            self.upload = ""

    @invariant()
    def agrees(self) -> None:
        """What is said of an open upload is what arrived, and what is listed is what was published."""
        if self.upload:
            there = self.world.acme.get(f"/uploads/{self.upload}").json()["uploads"]
            assert {file["path"]: file["received"] for file in there} == {p: len(c) for p, c in self.sent.items()}
        listed = self.world.acme.get(f"/patches/{self.patch}/versions").json()["items"]
        assert [version["number"] for version in listed] == sorted(self.versions, reverse=True)

    def teardown(self) -> None:
        for number, files in self.versions.items():
            for path, content in files.items():
                assert self.world.acme.get(f"/patches/{self.patch}/versions/{number}/files/{path}").content == content
        self.world.quiet()


@pytest.mark.usefixtures("world")
def test_any_order(world: World) -> None:
    Uploads.world = world

    def run() -> None:
        run_state_machine_as_test(Uploads, settings=limits(6, 16))

    (repeated(run) if SECONDS else run)()

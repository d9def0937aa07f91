"""Uploads can be broken off anywhere and go on."""

import io
from collections.abc import Callable
from datetime import timedelta
from typing import BinaryIO

import pytest

from fleet.apps.registry import selectors, services
from fleet.apps.registry.models import Upload
from fleet.apps.registry.records import UploadRecord
from fleet.domain.errors import ConflictError, InvalidInputError, NotFoundError, TooLargeError, UnavailableError
from fleet.ports.blobs import StorageFullError
from tests.fakes.blobs import MemoryBlobStore, MemoryUploadSpool
from tests.server.catalogue import NOW
from tests.server.pipeline import open_pipeline, sha256_of, weights

pytestmark = pytest.mark.django_db

CONTENT = bytes(range(256)) * 40
SHA256 = sha256_of(CONTENT)


class Sender:
    """Somebody who uploads `CONTENT`."""

    def __init__(self) -> None:
        self.store = MemoryBlobStore()
        self.spool = MemoryUploadSpool()

    def begin(self, length: int = len(CONTENT), sha256: str = SHA256) -> UploadRecord:
        return services.begin_upload(sha256=sha256, length=length, store=self.store, actor="token:ci", now=NOW)

    def send(self, start: int, end: int, content: bytes = CONTENT) -> UploadRecord:
        chunk = content[start:end]
        return services.append_upload(
            sha256=SHA256,
            offset=start,
            chunk=io.BytesIO(chunk),
            limit=len(chunk),
            store=self.store,
            spool=self.spool,
            now=NOW,
        )


@pytest.fixture
def sender() -> Sender:
    return Sender()


def test_upload__in_chunks__whole_in_the_store(sender: Sender) -> None:
    assert sender.begin() == UploadRecord(SHA256, len(CONTENT), 0, complete=False)
    assert sender.send(0, 1_000).received == 1_000
    assert sender.begin().received == 1_000
    assert sender.send(1_000, len(CONTENT)).complete
    assert sender.store.blobs[SHA256] == CONTENT
    assert sender.spool.parts == {}
    assert selectors.blob_length(SHA256) == len(CONTENT)
    assert not Upload.objects.exists()


def test_upload__store_has_it__no_bytes_needed(sender: Sender) -> None:
    sender.begin()
    sender.send(0, len(CONTENT))
    assert sender.begin().complete
    assert sender.send(0, 10).complete


def test_upload__store_lost_it__taken_again(sender: Sender) -> None:
    sender.begin()
    sender.send(0, len(CONTENT))
    sender.store.blobs.clear()
    assert not sender.begin().complete
    assert sender.send(0, len(CONTENT)).complete
    assert sender.store.blobs[SHA256] == CONTENT


@pytest.mark.parametrize("start", [1, 999, 1_001, len(CONTENT)])
def test_upload__wrong_offset__refused_with_the_right_one(sender: Sender, start: int) -> None:
    sender.begin()
    sender.send(0, 1_000)
    with pytest.raises(ConflictError, match="expected offset 1000") as refused:
        sender.send(start, start + 10)
    assert refused.value.code == "upload_offset"


def test_upload__bytes_of_another_file__refused_and_forgotten(sender: Sender) -> None:
    sender.begin()
    with pytest.raises(InvalidInputError) as refused:
        sender.send(0, len(CONTENT), b"x" * len(CONTENT))
    assert refused.value.code == "blob_mismatch"
    assert sender.store.blobs == {}
    assert sender.spool.parts == {}
    with pytest.raises(NotFoundError):
        services.upload_state(sha256=SHA256)


class CrowdedStore(MemoryBlobStore):
    """While the first blob is made, somebody who sends the same bytes cuts the spool, and then does something more."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__()
        self._meanwhile = [meanwhile]

    def put(self, sha256: str, reader: BinaryIO, length: int) -> None:
        if self._meanwhile:
            self._meanwhile.pop()()
            reader = io.BytesIO(b"")
        super().put(sha256, reader, length)


def test_upload__somebody_else_sends_the_same_and_is_faster__both_have_it(sender: Sender) -> None:
    def finish() -> None:
        sender.store.blobs[SHA256] = CONTENT
        sender.spool.discard(SHA256)

    sender.store = CrowdedStore(finish)
    sender.begin()
    assert sender.send(0, len(CONTENT)).complete
    assert sender.store.blobs[SHA256] == CONTENT
    assert sender.begin().complete


def test_upload__somebody_else_has_sent_the_same_again__goes_on(sender: Sender) -> None:
    sender.store = CrowdedStore(lambda: None)
    sender.begin()
    assert sender.send(0, len(CONTENT)).complete
    assert sender.store.blobs[SHA256] == CONTENT


def test_upload__somebody_else_has_begun_to_send_the_same__sent_again_from_the_beginning(sender: Sender) -> None:
    sender.store = CrowdedStore(lambda: sender.spool.append(SHA256, 0, io.BytesIO(CONTENT[:10]), 10))
    sender.begin()
    with pytest.raises(ConflictError, match="somebody else sends the same bytes"):
        sender.send(0, len(CONTENT))
    assert sender.begin().received == 0
    assert sender.send(0, len(CONTENT)).complete
    assert sender.store.blobs[SHA256] == CONTENT


def test_upload__more_than_announced__refused_before_a_byte_is_kept(sender: Sender) -> None:
    sender.begin()
    with pytest.raises(TooLargeError):
        sender.send(0, len(CONTENT) + 1, CONTENT + b"x")
    assert sender.spool.size(SHA256) == 0


def test_upload__announced_with_two_lengths__refused(sender: Sender) -> None:
    sender.begin()
    with pytest.raises(ConflictError):
        sender.begin(length=len(CONTENT) + 1)
    sender.send(0, len(CONTENT))
    with pytest.raises(ConflictError):
        sender.begin(length=len(CONTENT) + 1)


@pytest.mark.parametrize(("sha256", "length"), [("x", 1), (SHA256, 0), (SHA256, -1), (SHA256, 1 << 60)])
def test_upload__impossible__refused(sender: Sender, sha256: str, length: int) -> None:
    with pytest.raises((InvalidInputError, TooLargeError)):
        sender.begin(length, sha256)


def test_upload__never_announced__refused(sender: Sender) -> None:
    with pytest.raises(NotFoundError):
        sender.send(0, 10)


def test_upload__spool_lost_the_bytes__starts_again(sender: Sender) -> None:
    sender.begin()
    sender.send(0, 1_000)
    sender.spool.parts.clear()
    with pytest.raises(ConflictError, match="expected offset 0"):
        sender.send(1_000, 2_000)
    assert sender.send(0, len(CONTENT)).complete


def test_upload__disk_full__can_go_on_later(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    sender.begin()
    sender.send(0, 1_000)

    def full(*_: object) -> int:
        raise StorageFullError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(sender.spool, "append", full)
        with pytest.raises(UnavailableError) as refused:
            sender.send(1_000, 2_000)
    assert refused.value.code == "storage_full"
    assert sender.send(1_000, len(CONTENT)).complete


def test_sweep__abandoned_uploads_and_orphans__removed_and_nothing_else() -> None:
    pipeline = open_pipeline()
    pipeline.push("1")
    kept = set(pipeline.store.blobs)
    orphan = pipeline.upload(b"never finalised")
    services.begin_upload(sha256=SHA256, length=len(CONTENT), store=pipeline.store, actor="token:ci", now=NOW)
    pipeline.spool.parts[SHA256] = bytearray(b"abc")
    soon, late = NOW + timedelta(days=1), NOW + timedelta(days=3)
    assert services.sweep_blobs(store=pipeline.store, spool=pipeline.spool, now=soon) == 0
    fresh = pipeline.upload(weights("9"), now=late)
    assert services.sweep_blobs(store=pipeline.store, spool=pipeline.spool, now=late) == 2
    assert set(pipeline.store.blobs) == {*kept, fresh}
    assert orphan not in pipeline.store.blobs
    assert pipeline.spool.parts == {}

"""One contract for every blob store and spool: in memory, in a directory, in a bucket."""

import errno
import hashlib
import io
import os
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from device_client.wire.errors import MalformedNameError
from fleet.adapters import blobs_s3
from fleet.adapters.blobs_local import LocalBlobStore, LocalUploadSpool
from fleet.adapters.blobs_s3 import S3BlobStore
from fleet.domain import tickets
from fleet.ports.blobs import BlobMismatchError, BlobMissingError, BlobStore, StorageFullError, UploadSpool
from tests.fakes.blobs import MemoryBlobStore, MemoryUploadSpool

CONTENT = b"weights " * 1_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()
NOW = datetime(2026, 3, 1, tzinfo=UTC)
KEY = tickets.ticket_key(b"secret")


@pytest.fixture(params=["memory", "local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    match request.param:
        case "memory":
            return MemoryBlobStore()
        case "local":
            return LocalBlobStore(tmp_path / "blobs", KEY, lambda: NOW)
        case _:
            endpoint, bucket = request.getfixturevalue("s3_endpoint"), request.getfixturevalue("s3_bucket")
            return S3BlobStore(bucket, "some/prefix", endpoint)


@pytest.fixture(params=["memory", "local"])
def spool(request: pytest.FixtureRequest, tmp_path: Path) -> UploadSpool:
    return MemoryUploadSpool() if request.param == "memory" else LocalUploadSpool(tmp_path / "uploads")


def put(store: BlobStore, content: bytes = CONTENT) -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    store.put(sha256, io.BytesIO(content), len(content))
    return sha256


def test_blob__put__can_be_read_from_any_offset(store: BlobStore) -> None:
    put(store)
    assert store.length(SHA256) == len(CONTENT)
    for offset in (0, 1, len(CONTENT) - 1, len(CONTENT)):
        with store.open(SHA256, offset) as reader:
            assert reader.read() == CONTENT[offset:]


def test_blob__put_twice__no_error_and_same_content(store: BlobStore) -> None:
    put(store)
    put(store)
    with store.open(SHA256) as reader:
        assert reader.read() == CONTENT


@pytest.mark.parametrize(
    "content", [b"", CONTENT[:-1], CONTENT + b"x", b"x" + CONTENT[1:]], ids=["empty", "short", "long", "altered"]
)
def test_blob__other_bytes_than_named__refused_and_not_stored(store: BlobStore, content: bytes) -> None:
    with pytest.raises(BlobMismatchError):
        store.put(SHA256, io.BytesIO(content), len(CONTENT))
    assert store.length(SHA256) is None


def test_blob__missing__says_so(store: BlobStore) -> None:
    assert store.length(OTHER) is None
    with pytest.raises(BlobMissingError):
        store.open(OTHER)


def test_blob__deleted__gone_and_again_no_error(store: BlobStore) -> None:
    put(store)
    store.delete(SHA256)
    store.delete(SHA256)
    assert store.length(SHA256) is None


@pytest.mark.parametrize("name", ["", "../../etc/passwd", SHA256.upper(), SHA256 + "/x", SHA256[:-1], "a" * 63 + "\n"])
def test_blob__name_that_is_no_sha256__refused_before_any_path(store: BlobStore, name: str) -> None:
    with pytest.raises(MalformedNameError):
        store.put(name, io.BytesIO(b"x"), 1)
    for call in (store.open, store.length, store.delete):
        with pytest.raises(MalformedNameError):
            call(name)


class _Broken(io.RawIOBase):
    """Gives some bytes, then fails as a network does."""

    def __init__(self, first: bytes) -> None:
        self._first = first

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self._first:
            raise ConnectionResetError("the other side went away")
        out, self._first = self._first[:size], self._first[size:]
        return out


def test_blob__reader_fails_half_way__nothing_is_stored(store: BlobStore) -> None:
    with pytest.raises((ConnectionResetError, BlobMismatchError)):
        store.put(SHA256, _Broken(CONTENT[:100]), len(CONTENT))  # type: ignore[arg-type]
    assert store.length(SHA256) is None
    put(store)


# ------------------------------------------------------------------------------------------ local


def test_local_url__until_it_expires__ticket_is_valid(tmp_path: Path) -> None:
    url = LocalBlobStore(tmp_path, KEY, lambda: NOW).url(SHA256, 60)
    parts = urlsplit(url)
    assert parts.scheme == parts.netloc == ""
    assert parts.path == f"/device/v1/blobs/{SHA256}"
    (ticket,) = parse_qs(parts.query)["ticket"]
    assert tickets.is_valid(KEY, SHA256, ticket, NOW + timedelta(seconds=59))
    assert not tickets.is_valid(KEY, SHA256, ticket, NOW + timedelta(seconds=61))
    assert not tickets.is_valid(KEY, OTHER, ticket, NOW)


def test_local_put__fails__leaves_no_file(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path, KEY, lambda: NOW)
    with pytest.raises(BlobMismatchError):
        store.put(SHA256, io.BytesIO(b"x"), 1)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


class _FullDisk(io.BytesIO):
    """A reader whose bytes no longer fit."""

    def read(self, size: int | None = -1) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_local__disk_is_full__says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageFullError, match="No space left"):
        LocalBlobStore(tmp_path, KEY, lambda: NOW).put(SHA256, _FullDisk(), 5)
    with pytest.raises(StorageFullError):
        LocalUploadSpool(tmp_path).append(SHA256, 0, _FullDisk(), 5)


# ------------------------------------------------------------------------------------------ S3


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs_s3, "PART_BYTES", 5 << 20)


def test_s3_put__larger_than_a_part__stored_whole(s3_endpoint: str, s3_bucket: str, small_parts: None) -> None:
    content = os.urandom(1 << 20) * 11
    store = S3BlobStore(s3_bucket, "", s3_endpoint)
    sha256 = put(store, content)
    assert store.length(sha256) == len(content)
    with store.open(sha256, 10 << 20) as reader:
        assert reader.read() == content[10 << 20 :]


def test_s3_put__wrong_hash_in_parts__aborted(s3_endpoint: str, s3_bucket: str, small_parts: None) -> None:
    store = S3BlobStore(s3_bucket, "", s3_endpoint)
    with pytest.raises(BlobMismatchError):
        store.put(SHA256, io.BytesIO(bytes(11 << 20)), 11 << 20)
    assert store.length(SHA256) is None


def test_s3_url__presigned__serves_ranges(s3_endpoint: str, s3_bucket: str) -> None:
    store = S3BlobStore(s3_bucket, "p", s3_endpoint)
    put(store)
    request = urllib.request.Request(store.url(SHA256, 60), headers={"Range": "bytes=10-19"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 206
        assert answer.read() == CONTENT[10:20]


# ------------------------------------------------------------------------------------------ spool


def test_spool__chunks_in_order__whole(spool: UploadSpool) -> None:
    assert spool.size(SHA256) == 0
    assert spool.append(SHA256, 0, io.BytesIO(b"abc"), 3) == 3
    assert spool.append(SHA256, 3, io.BytesIO(b"defgh"), 2) == 5
    with spool.open(SHA256) as reader:
        assert reader.read() == b"abcde"


def test_spool__chunk_again__replaces_what_stood_there(spool: UploadSpool) -> None:
    spool.append(SHA256, 0, io.BytesIO(b"abcdef"), 6)
    assert spool.append(SHA256, 2, io.BytesIO(b"XY"), 2) == 4
    with spool.open(SHA256) as reader:
        assert reader.read() == b"abXY"


def test_spool__connection_breaks__what_came_is_kept(spool: UploadSpool) -> None:
    with pytest.raises(ConnectionResetError):
        spool.append(SHA256, 0, _Broken(b"abc"), 10)  # type: ignore[arg-type]
    assert spool.size(SHA256) == 3


def test_spool__discarded__gone_and_again_no_error(spool: UploadSpool) -> None:
    spool.append(SHA256, 0, io.BytesIO(b"abc"), 3)
    spool.discard(SHA256)
    spool.discard(SHA256)
    assert spool.size(SHA256) == 0
    with pytest.raises(BlobMissingError):
        spool.open(SHA256)

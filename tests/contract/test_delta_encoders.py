"""One contract for everything that makes patches, and one for what gives it files: real ones and fakes."""

import errno
import hashlib
import io
import os
import time
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from device_client.wire.delta import Codec
from device_client.wire.errors import WireError
from fleet.adapters import delta_bsdiff4
from fleet.adapters.blobs_local import LocalBlobStore
from fleet.adapters.blobs_s3 import S3BlobStore
from fleet.adapters.delta_encoders import Bsdiff4Encoder, DeviceDecoder, Tensor1Encoder
from fleet.adapters.local_files import LEFT_BEHIND_S, FetchedFiles, StoredFiles
from fleet.domain import tickets
from fleet.ports.blobs import BlobMismatchError, BlobMissingError, BlobStore, StorageFullError
from fleet.ports.delta_encoder import DeltaEncoder, DeltaTooExpensiveError, WeightsFile
from fleet.ports.local_files import LocalFiles
from tests.fakes.blobs import MemoryBlobStore
from tests.fakes.delta_encoder import VerbatimEncoder

ENCODERS: dict[str, DeltaEncoder] = {
    "tensor1": Tensor1Encoder(Codec.TENSOR1),
    "portable": Tensor1Encoder(Codec.TENSOR1_PORTABLE),
    "bsdiff4": Bsdiff4Encoder(),
    "fake": VerbatimEncoder(max_bytes=1 << 20),
}


@pytest.fixture(params=sorted(ENCODERS))
def encoder(request: pytest.FixtureRequest) -> DeltaEncoder:
    return ENCODERS[request.param]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[WeightsFile, WeightsFile]:
    rng = np.random.default_rng(7)
    old = rng.normal(size=50_000).astype(np.float32)
    new = old + rng.normal(size=old.size).astype(np.float32) * np.float32(1e-5)
    files = []
    for name, content in (("old", old), ("new", new)):
        files.append(tmp_path / name)
        files[-1].write_bytes(content.tobytes())
    return WeightsFile(files[0]), WeightsFile(files[1])


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_encode__two_files__the_device_gets_the_new_one(
    encoder: DeltaEncoder, pair: tuple[WeightsFile, WeightsFile], tmp_path: Path
) -> None:
    old, new = pair
    encoder.encode(old, new, tmp_path / "patch")
    size = new.path.stat().st_size
    assert DeviceDecoder().digest(encoder.codec, old.path, tmp_path / "patch", size) == sha256_of(new.path)
    encoder.encode(old, new, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "patch").read_bytes()


@pytest.mark.parametrize("wrong", ["length", "base", "cut", "codec"])
def test_digest__patch_that_does_not_fit__a_wire_error_or_another_digest(
    encoder: DeltaEncoder, pair: tuple[WeightsFile, WeightsFile], tmp_path: Path, wrong: str
) -> None:
    old, new = pair
    patch, codec, size = tmp_path / "patch", encoder.codec, new.path.stat().st_size
    encoder.encode(old, new, patch)
    if wrong == "cut":
        os.truncate(patch, patch.stat().st_size // 2)
    if wrong == "codec":
        codec = Codec.BSDIFF4 if codec is not Codec.BSDIFF4 else Codec.TENSOR1
    base = new.path if wrong == "base" else old.path
    try:
        found = DeviceDecoder().digest(codec, base, patch, size - (wrong == "length"))
    except WireError:
        return
    # A patch that carries the whole file makes it of any base, and bsdiff4 checks no base: then the digest tells.
    assert (found == sha256_of(new.path)) == (wrong == "base" and isinstance(encoder, VerbatimEncoder))


def test_encode__file_that_is_missing__os_error(encoder: DeltaEncoder, pair: tuple[WeightsFile, WeightsFile]) -> None:
    missing = WeightsFile(pair[0].path.with_name("missing"))
    with pytest.raises(FileNotFoundError):
        encoder.encode(missing, pair[1], missing.path.with_name("patch"))


@pytest.mark.parametrize("name", ["bsdiff4", "fake"])
def test_encode__larger_than_it_may_take__refused_before_it_starts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta_bsdiff4, "BSDIFF4_MAX_BYTES", 1 << 20)
    for file in ("old", "new"):
        (tmp_path / file).write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(DeltaTooExpensiveError):
        ENCODERS[name].encode(WeightsFile(tmp_path / "old"), WeightsFile(tmp_path / "new"), tmp_path / "patch")
    assert not (tmp_path / "patch").exists()


def test_digest__large_tensor1_patch__is_proved_block_by_block(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    old = rng.normal(size=8_000_000).astype(np.float32)
    new = old.copy()
    new[::1000] += np.float32(1e-3)
    for name, content in (("old", old), ("new", new)):
        content.tofile(tmp_path / name)
    encoder = ENCODERS["tensor1"]
    encoder.encode(WeightsFile(tmp_path / "old"), WeightsFile(tmp_path / "new"), tmp_path / "patch")
    size = (tmp_path / "new").stat().st_size
    del old, new
    tracemalloc.start()
    DeviceDecoder().digest(encoder.codec, tmp_path / "old", tmp_path / "patch", size)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size / 2


# ---------------------------------------------------------------- local files

CONTENT = b"weights " * 1_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def _local_store(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "blobs", tickets.ticket_key(b"secret"), lambda: datetime(2026, 3, 1, tzinfo=UTC))


@pytest.fixture(params=["stored", "fetched from memory", "fetched from s3"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[BlobStore, LocalFiles]:
    match request.param:
        case "stored":
            local = _local_store(tmp_path)
            return local, StoredFiles(local, tmp_path / "scratch")
        case "fetched from memory":
            store: BlobStore = MemoryBlobStore()
        case _:
            endpoint, bucket = request.getfixturevalue("s3_endpoint"), request.getfixturevalue("s3_bucket")
            store = S3BlobStore(bucket, "some/prefix", endpoint)
    return store, FetchedFiles(store, tmp_path / "scratch")


def test_blob__stored__is_a_file_with_its_content(stored: tuple[BlobStore, LocalFiles], tmp_path: Path) -> None:
    store, files = stored
    store.put(SHA256, io.BytesIO(CONTENT), len(CONTENT))
    with files.blob(SHA256) as path:
        assert path.read_bytes() == CONTENT
    assert store.length(SHA256) == len(CONTENT)
    assert not any((tmp_path / "scratch").glob("*"))


def test_blob__missing__says_so(stored: tuple[BlobStore, LocalFiles]) -> None:
    with pytest.raises(BlobMissingError), stored[1].blob("0" * 64):
        pytest.fail("expected no file")


def test_blob__damaged_in_the_store__is_not_given_out(tmp_path: Path) -> None:
    local, memory = _local_store(tmp_path), MemoryBlobStore()
    local.put(SHA256, io.BytesIO(CONTENT), len(CONTENT))
    local.path(SHA256).write_bytes(CONTENT[:-1] + b"?")
    memory.blobs[SHA256] = CONTENT[:-1] + b"?"
    for files in (StoredFiles(local, tmp_path / "scratch"), FetchedFiles(memory, tmp_path / "scratch")):
        with pytest.raises(BlobMismatchError), files.blob(SHA256):
            pytest.fail("expected no file")


def test_scratch__disk_is_full__says_so_and_leaves_nothing(
    stored: tuple[BlobStore, LocalFiles], tmp_path: Path
) -> None:
    def fill(directory: Path) -> None:
        (directory / "draft").write_bytes(b"x")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageFullError), stored[1].scratch() as directory:
        fill(directory)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_scratch__left_behind_by_a_killed_process__is_cleared_after_a_day(
    stored: tuple[BlobStore, LocalFiles], tmp_path: Path
) -> None:
    old, young = (tmp_path / "scratch" / f"work-{name}" for name in ("old", "young"))
    for path in (old, young):
        path.mkdir(parents=True)
        (path / "draft").write_bytes(b"x")
    long_ago = time.time() - LEFT_BEHIND_S - 1
    os.utime(old, (long_ago, long_ago))
    with stored[1].scratch():
        assert not old.exists()
        assert young.exists()

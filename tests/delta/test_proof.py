"""Patches are proven on both cores: what comes of it is what a device makes, block by block and in order."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_client.wire.delta import Codec
from device_client.wire.errors import MalformedPatchError
from device_client.wire.tensor1 import apply
from device_client.wire.tensor1.errors import TruncatedPatchError
from fleet.adapters import delta_files
from fleet.adapters.delta_files import PreadFile
from fleet.adapters.delta_proof import proven_sha256
from fleet.adapters.delta_tensor import EncodeStats, encode
from fleet.domain.layouts import Dtype, Layout, Segment
from tests.delta.patches import Held, Written, make, parts, weights


def _pair() -> tuple[bytes, bytes, bytes]:
    """Old, new and a patch with a merged adapter's factors, plain numbers, and a stream of bytes that are new."""
    rows, columns = 96, 128
    matrix, vector = weights(1, rows, columns), weights(2, 40_000)
    merged = matrix + (weights(3, rows, 4) @ weights(4, 4, columns)) * np.float32(0.01)
    moved = vector + weights(5, 40_000) * np.float32(1e-4)
    old = matrix.tobytes() + vector.tobytes()
    new = merged.tobytes() + moved.tobytes() + b"".join(b"%d " % number for number in range(20_000))
    segments = (
        Segment(0, matrix.nbytes, Dtype.FLOAT32, (rows, columns), "matrix"),
        Segment(matrix.nbytes, vector.nbytes, Dtype.FLOAT32, (40_000,), "vector"),
    )
    layouts = Layout.of(len(old), "any", segments), Layout.of(len(new), "any", segments)
    patch, _ = make(old, new, layouts=layouts, block_bytes=8 << 10)
    return old, new, patch


def test_proof__parameters_numbers_and_streams__the_digest_that_the_patch_announces() -> None:
    old, new, patch = _pair()
    written = Written()
    with ThreadPoolExecutor(3) as pool:
        header = apply(Held(patch), Held(old), written, workers=pool)
    assert bytes(written.content) == new
    assert proven_sha256(Held(patch), Held(old)) == header.new_sha256


def test_proof__damaged_block__refused_after_those_before_it() -> None:
    old, new, patch = _pair()
    head, prologue, records = parts(patch)
    damaged = bytearray(records)
    # In the middle of the numbers, whose blocks are some of many.
    damaged[len(records) // 3] ^= 0x40
    written = Written()
    with ThreadPoolExecutor(3) as pool, pytest.raises(MalformedPatchError):
        apply(Held(head + prologue + bytes(damaged)), Held(old), written, workers=pool)
    assert 0 < len(written.content) < len(new)
    assert new.startswith(written.content)


def test_proof__patch_that_ends_early__refused() -> None:
    old, _, patch = _pair()
    with pytest.raises(TruncatedPatchError):
        proven_sha256(Held(patch[:-100]), Held(old))


def test_file_that_is_read__written_to_meanwhile__is_told(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"weights")
    os.utime(path, ns=(0, 0))
    with PreadFile(path) as file:
        file.check_unchanged()
        path.write_bytes(b"WEIGHTS")
        with pytest.raises(OSError, match="written to") as caught:
            file.check_unchanged()
    assert (caught.value.errno, caught.value.filename) == (errno.EBUSY, str(path))


def test_file_that_is_read__cut_meanwhile__nothing_is_made_of_what_is_left(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(bytes(5000))
    with PreadFile(path) as file:
        os.truncate(path, 1000)
        assert file.read_at(900, 100) == bytes(100)
        for offset, length in ((0, 5000), (900, 101), (1000, 1)):
            with pytest.raises(OSError, match="written to") as caught:
                file.read_at(offset, length)
            assert (caught.value.errno, caught.value.filename) == (errno.EBUSY, str(path))
        # Where nothing was to be, nothing is missing.
        assert file.read_at(5000, 1) == b""


def test_create__old_file_is_written_to_meanwhile__told_that_and_not_what_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, patch = (tmp_path / name for name in ("old", "new", "patch"))
    old.write_bytes(weights(1, 40_000).tobytes())
    new.write_bytes(weights(2, 40_000).tobytes())
    os.utime(old, ns=(0, 0))

    def encode_then_write(*files: Any, **how: Any) -> EncodeStats:
        stats = encode(*files, **how)
        old.write_bytes(bytes(160_000))
        return stats

    monkeypatch.setattr(delta_files, "encode", encode_then_write)
    with pytest.raises(OSError, match="written to") as caught:
        delta_files.create(old, new, patch, Codec.TENSOR1)
    assert caught.value.filename == str(old)
    assert not patch.exists()

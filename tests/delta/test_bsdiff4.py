"""Applying bsdiff4 patches in fixed memory: what the library makes, and nothing of what a forged patch asks for."""

import bz2
import struct
import tracemalloc
from pathlib import Path

import bsdiff4
import numpy as np
import pytest

from device_client.wire.errors import MalformedPatchError
from fleet.adapters.delta_bsdiff4 import is_tried, patched
from fleet.adapters.delta_files import PreadFile

MIB = 1 << 20
DICE = np.random.default_rng(8)
NOISE = DICE.integers(0, 256, 300_000, dtype=np.uint8).tobytes()
PAIRS = {
    "nothing to nothing": (b"", b""),
    "nothing to something": (b"", NOISE[:1000]),
    "something to nothing": (NOISE[:1000], b""),
    "the same": (NOISE, NOISE),
    "parts in another order": (NOISE, NOISE[200_000:] + b"between" + NOISE[:100_000]),
    "a little everywhere": (NOISE, bytes(byte + (place % 50 == 0) & 255 for place, byte in enumerate(NOISE))),
    "unrelated": (NOISE[:5_000], NOISE[5_000:40_000]),
}


def applied(directory: Path, old: bytes, patch: bytes) -> bytes:
    (directory / "old").write_bytes(old)
    (directory / "patch").write_bytes(patch)
    made = bytearray()
    with PreadFile(directory / "old") as before, PreadFile(directory / "patch") as source:
        patched(before, source, source.size, made.extend)
    return bytes(made)


def forged(controls: bytes, differences: bytes, extra: bytes, new_bytes: int) -> bytes:
    parts = [bz2.compress(part) for part in (controls, differences, extra)]
    return b"BSDIFF40" + struct.pack("<qqq", len(parts[0]), len(parts[1]), new_bytes) + b"".join(parts)


@pytest.mark.parametrize("name", PAIRS)
def test_patched__what_the_library_made__the_new_file(tmp_path: Path, name: str) -> None:
    old, new = PAIRS[name]
    assert applied(tmp_path, old, bsdiff4.diff(old, new)) == new


@pytest.mark.parametrize("reach", [40, 3_000_000], ids=["near", "far"])
def test_patched__many_small_steps__what_the_library_makes(tmp_path: Path, reach: int) -> None:
    dice = np.random.default_rng(reach)
    old = dice.integers(0, 256, 4_000_000, dtype=np.uint8).tobytes()
    controls, place, added, copied = bytearray(), 0, 0, 0
    for _ in range(9_000):
        add, copy = (int(count) for count in dice.integers(0, 60, 2))
        target = min(len(old) - 60, max(0, place + add + int(dice.integers(-reach, reach + 1))))
        seek = target - place - add
        controls += struct.pack("<QQQ", add, copy, seek if seek >= 0 else 1 << 63 | -seek)
        place, added, copied = target, added + add, copied + copy
    differences, extra = (dice.integers(0, 256, count, dtype=np.uint8).tobytes() for count in (added, copied))
    patch = forged(bytes(controls), differences, extra, added + copied)
    assert applied(tmp_path, old, patch) == bsdiff4.patch(old, patch)


def test_patched__as_many_steps_as_a_patch_may_have__read_and_written_together(tmp_path: Path) -> None:
    size = MIB
    steps = size // 8
    patch = forged(struct.pack("<QQQ", 8, 0, 1 << 63 | 8) * steps, bytes(size), b"", size)
    assert len(patch) < 3_000
    reads: list[int] = []
    written: list[int] = []

    class Watched:
        size = 8

        def read_at(self, offset: int, length: int) -> bytes:
            reads.append(offset)
            return b"12345678"[offset : offset + length]

    (tmp_path / "patch").write_bytes(patch)
    with PreadFile(tmp_path / "patch") as source:
        patched(Watched(), source, source.size, lambda content: written.append(len(content)))
    assert sum(written) == size
    assert max(len(reads), len(written)) < steps / 1_000


@pytest.mark.parametrize("which", ["extra", "differences", "controls"])
def test_patched__a_few_bytes_that_inflate_to_24_mib__fixed_memory(tmp_path: Path, which: str) -> None:
    size = 24 * MIB
    controls = struct.pack("<QQQ", 0, size, 0)
    old = b""
    if which == "differences":
        controls, old = struct.pack("<QQQ", size, 0, 0), bytes(size)
    elif which == "controls":
        controls = bytes(24 * (size // 24))
    patch = forged(controls, bytes(size), bytes(size), size if which != "controls" else 1_000)
    assert len(patch) < 1_000
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "patch").write_bytes(patch)
    made = 0

    def count(content: bytes) -> None:
        nonlocal made
        made += len(content)

    tracemalloc.start()
    try:
        with PreadFile(tmp_path / "old") as before, PreadFile(tmp_path / "patch") as source:
            if which == "controls":
                with pytest.raises(MalformedPatchError, match="steps"):
                    patched(before, source, source.size, count)
            else:
                patched(before, source, source.size, count)
                assert made == size
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        (b"", "header"),
        (b"BSDIFF40" + bytes(23), "header"),
        (b"BSDIFF41" + bytes(24), "tensor1 or bsdiff4"),
        (b"BSDIFF40" + struct.pack("<qqq", -1, 0, 0), "lengths"),
        (b"BSDIFF40" + struct.pack("<qqq", 1 << 62, 1 << 62, 5), "lengths"),
        (b"BSDIFF40" + struct.pack("<qqq", 3, 3, 5) + b"no bzip", "bzip2"),
        (forged(b"short", b"", b"", 5), "bzip2|ends early"),
        (forged(struct.pack("<QQQ", 0, 6, 0), b"", b"123456", 5), "makes more"),
        (forged(struct.pack("<QQQ", 0, 1 << 62, 0), b"", b"123456", 5), "makes more"),
        (forged(struct.pack("<QQQ", 0, 5, 0), b"", b"1234", 5), "bzip2|ends early"),
        (forged(struct.pack("<QQQ", 5, 0, 0), b"12345", b"", 5), "old bytes"),
        (forged(struct.pack("<QQQQQQ", 1, 0, 1 << 63 | 9, 4, 0, 0), b"12345", b"", 5), "old bytes"),
        (forged(struct.pack("<QQQ", 1 << 63 | 5, 5, 0), b"", b"12345", 5), "lengths"),
        (
            forged(struct.pack("<QQQ", 0, 1, (1 << 63) - 1) * 3 + struct.pack("<QQQ", 1, 1, 0), b"1", b"1234", 40),
            "old bytes",
        ),
    ],
    ids=[
        "empty",
        "half a header",
        "another format",
        "negative length",
        "lengths beyond the patch",
        "no bzip2",
        "half a step",
        "more than announced",
        "far more than announced",
        "less than announced",
        "beyond the old file",
        "before the old file",
        "negative step",
        "farther than any file",
    ],
)
def test_patched__forged__refused(tmp_path: Path, patch: bytes, said: str) -> None:
    with pytest.raises(MalformedPatchError, match=said):
        applied(tmp_path, b"old", patch)


def test_is_tried__memory_of_the_suffix_sort__decides() -> None:
    assert is_tried(10 * MIB, 10 * MIB)
    assert not is_tried(11 * MIB, MIB)
    assert is_tried(0, 100 * MIB)
